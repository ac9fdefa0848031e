"""A training that was interrupted ends with the very bits of one that was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_backbone
import torch

from dbbench.errors import UserError
from dbbench.files import hash_file
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Checkpoint, Concept, load_method
from dbbench.generation.resume import STATE_FILE, SaveInterval, Saves
from dbbench.interrupts import Stop, Stopped

CONCEPT = Concept(
    name="plushie",
    class_noun="stuffed animal",
    images=tuple(tiny_backbone.images(3)),
    prior_images=tuple(tiny_backbone.images(5, seed=1)),
)
COMMON: dict[str, Any] = {
    "steps": 12, "batch_size": 2, "learning_rate": 1e-3, "lr_schedule": "cosine",
    "warmup_steps": 2, "horizontal_flip": True,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "dreambooth": {"train_text_encoder": True},
    "dreambooth_lora": {"train_text_encoder": True, "rank": 2},
    "textual_inversion": {"n_vectors": 2},
    "custom_diffusion": {},
}


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_backbone.write(tmp_path_factory.mktemp("backbone"))
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def fit(
    name: str,
    backbone: Backbone,
    saves: Saves | None,
    *,
    until: int | None = None,
    snapshots: Path | None = None,
) -> tuple[Checkpoint, list[int]]:
    """Train; return what was learned, and the steps that it heard of."""
    heard: list[int] = []

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        heard.append(done)

    class Counting(Saves):
        def due(self, step: int) -> bool:
            if step == until:
                raise Interrupted
            return super().due(step)

    if saves is not None:
        saves = Counting(saves.folder, saves.key, saves.interval, saves.stop)
    method: Any = load_method(name, COMMON | METHODS[name])
    concept = replace(CONCEPT, snapshots={0.25: snapshots / "at-0.25"} if snapshots else {})
    return method.fit(concept, backbone, seed=3, progress=progress, saves=saves), heard


def assert_same(one: Checkpoint, two: Checkpoint) -> None:
    assert one.losses == two.losses
    assert one.metadata == two.metadata
    assert one.files.keys() == two.files.keys()
    for file, tensors in one.files.items():
        assert tensors.keys() == two.files[file].keys()
        assert all(torch.equal(tensors[key], two.files[file][key]) for key in tensors)


def hashes(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hash_file(p) for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("name", list(METHODS))
def test_a_training_interrupted_twice_ends_with_the_same_bits(
    tmp_path: Path, backbone: Backbone, name: str
) -> None:
    whole, _ = fit(name, backbone, None, snapshots=tmp_path / "whole")
    folder = tmp_path / "folder"
    folder.mkdir()
    saves = Saves(folder, "key", SaveInterval.parse("2steps"))
    with pytest.raises(Interrupted):
        fit(name, backbone, saves, until=5, snapshots=folder)
    torch.manual_seed(99)  # Whatever the next process begins with.
    with pytest.raises(Interrupted):
        fit(name, backbone, saves, until=9, snapshots=folder)
    resumed, heard = fit(name, backbone, saves, snapshots=folder)
    assert heard[0] == 8
    assert_same(resumed, whole)
    assert len(list(folder.glob(".training-*"))) == 1
    snapshots = hashes(folder / "at-0.25")
    assert snapshots
    assert snapshots == hashes(tmp_path / "whole" / "at-0.25")
    # What was written for good on the way is part of the state.
    next((folder / "at-0.25").rglob("*.safetensors")).write_bytes(b"other")
    assert saves.load() is None


def test_a_wish_to_stop_is_granted_after_the_step_and_what_was_done_is_kept(
    tmp_path: Path, backbone: Backbone
) -> None:
    whole, _ = fit("dreambooth_lora", backbone, None)
    stop = Stop(number=15)
    saves = Saves(tmp_path, "key", SaveInterval(), stop)
    with pytest.raises(Stopped) as caught:
        fit("dreambooth_lora", backbone, saves)
    assert caught.value.number == 15
    stop.number = None
    resumed, heard = fit("dreambooth_lora", backbone, saves)
    assert heard[0] == 1
    assert_same(resumed, whole)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "record", "key"])
def test_a_state_that_is_not_whole_is_not_gone_on_from(
    tmp_path: Path, backbone: Backbone, damage: str
) -> None:
    saves = Saves(tmp_path, "key", SaveInterval(steps=4))
    with pytest.raises(Interrupted):
        fit("dreambooth_lora", backbone, saves, until=7)
    (state,) = tmp_path.glob(".training-*.safetensors")
    content = bytearray(state.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        state.write_bytes(content)
    elif damage == "truncate":
        state.write_bytes(content[:-3])
    elif damage == "remove":
        state.unlink()
    elif damage == "record":
        (tmp_path / STATE_FILE).write_text("{")
    else:
        saves.key = "another"
    assert saves.load() is None
    saves.key = "key"


def test_the_state_is_kept_by_time_too(tmp_path: Path) -> None:
    saves = Saves(tmp_path, interval=SaveInterval(seconds=0.0))
    assert saves.load() is None
    assert saves.due(1)
    saves.interval = SaveInterval(seconds=60.0)
    saves.save(1, {"x": torch.ones(2)}, {})
    assert not saves.due(2)
    assert saves.load() is not None


def test_a_full_disk_costs_the_state_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = Saves(tmp_path)
    saves.save(1, {"x": torch.ones(2)}, {})

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dbbench.generation.resume.write_text", refuse)
    for step in (2, 3):
        saves.save(step, {"x": torch.ones(2)}, {})
    assert [r.message.count("No space left") for r in caplog.records] == [1]
    assert saves.load() is not None
    assert saves.resumed_at == 1


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("5min", SaveInterval(300.0)),
        ("90s", SaveInterval(90.0)),
        ("1 step", SaveInterval(float("inf"), 1)),
    ],
)
def test_an_interval_is_written_with_its_unit(text: str, interval: SaveInterval) -> None:
    assert SaveInterval.parse(text) == interval


@pytest.mark.parametrize("text", ["5", "0min", "-1s", "often", "5 hours"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(UserError, match="write 5min"):
        SaveInterval.parse(text)
