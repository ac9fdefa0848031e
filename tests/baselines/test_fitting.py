"""Training makes do with less memory, stops at what is no number, and takes subjects together."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_backbone
import torch
from harness import contents, installed, plugin_folder, run, suite, suite_file  # noqa: F401

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.fitting import applied, measure
from dbbench.generation.method import Checkpoint, Concept, Diverged
from dbbench.generation.recipes import GIB, Demand, Recipe, choose, report
from dbbench.storage.events import EventLog
from dbbench.suites.sampling import SampleSettings
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

CONCEPTS = [
    Concept("plushie", "stuffed animal", tuple(tiny_backbone.images(3))),
    Concept("rex", "dog", tuple(tiny_backbone.images(5, seed=4))),
    Concept("pot", "teapot", tuple(tiny_backbone.images(4, seed=7))),
]
PRIOR = tuple(tiny_backbone.images(6, seed=1))
QUICK: dict[str, Any] = {"steps": 8, "learning_rate": 1e-3, "batch_size": 3}
UNET = "unet/diffusion_pytorch_model.safetensors"
EMBEDS = "learned_embeds.safetensors"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_backbone.write(tmp_path_factory.mktemp("tiny"))
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def dreambooth(backbone: Backbone, **settings: Any) -> Checkpoint:
    concept = Concept("plushie", "stuffed animal", CONCEPTS[0].images, PRIOR)
    method = DreamBooth(DreamBooth.Settings(**{**QUICK, "identifier": "sks", **settings}))
    return method.fit(concept, backbone, seed=2, progress=lambda *_: None)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("n_vectors", [1, 2])
def test_subjects_side_by_side_come_out_as_one_by_one(
    backbone: Backbone, flip: bool, n_vectors: int
) -> None:
    settings = TextualInversion.Settings(**QUICK, horizontal_flip=flip, n_vectors=n_vectors)
    method, seeds = TextualInversion(settings), [5, 6, 7]
    together = method.fit_many(CONCEPTS, backbone, seeds=seeds, progress=lambda *_: None)
    for concept, seed, ours in zip(CONCEPTS, seeds, together, strict=True):
        alone = method.fit(concept, backbone, seed=seed, progress=lambda *_: None)
        (name,) = alone.files[EMBEDS]
        torch.testing.assert_close(
            ours.files[EMBEDS][name], alone.files[EMBEDS][name], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            torch.tensor(ours.losses), torch.tensor(alone.losses), rtol=1e-5, atol=1e-5
        )
        assert ours.metadata == alone.metadata
    assert len({checkpoint.losses[0] for checkpoint in together}) == 3


def limit_memory(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, images: int) -> list[int]:
    """Let a pass over more than so many images fail as CUDA's allocator does."""
    real, sizes = backbone.denoising_loss, []

    def loss(latents: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(latents, *arguments, **named)

    monkeypatch.setattr(backbone, "denoising_loss", loss)
    return sizes


@pytest.mark.parametrize("with_text", [False, True])
def test_out_of_memory_halves_the_passes_and_changes_nothing_else(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    with_text: bool,
) -> None:  # fmt: skip
    whole = dreambooth(backbone, train_text_encoder=with_text, prior_weight=0.5)
    sizes = limit_memory(backbone, monkeypatch, 2)
    with caplog.at_level(logging.WARNING, logger="dbbench"):
        halved = dreambooth(backbone, train_text_encoder=with_text, prior_weight=0.5)
    assert sizes[:5] == [6, 3, 2, 2, 2]
    assert "out of memory: continuing with 2 of 6 images at a time" in caplog.text
    torch.testing.assert_close(
        torch.tensor(halved.losses), torch.tensor(whole.losses), rtol=1e-4, atol=1e-5
    )
    before = backbone.weights("unet")
    moved = distance(whole.files[UNET], before)
    assert distance(halved.files[UNET], whole.files[UNET]) < 1e-2 * moved


def distance(one: Any, other: Any) -> float:
    return float(sum((one[name] - other[name]).square().sum() for name in other)) ** 0.5


def test_out_of_memory_with_one_image_says_what_to_change(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(backbone, monkeypatch, 0)
    with pytest.raises(UserError, match="one image at a time; choose a smaller resolution"):
        dreambooth(backbone)


def test_sampling_out_of_memory_goes_on_in_smaller_batches(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SampleSettings(steps=2, batch_size=4)
    texts, seeds = ["a dog", "a cat", "a toy", "a snow", "a dog"], [1, 2, 3, 4, 5]
    expected = [image.tobytes() for image in backbone.sample(texts, seeds=seeds, settings=settings)]
    kind, sizes = type(backbone.pipeline), []
    real = kind.__call__

    def call(pipeline: Any, **named: Any) -> Any:
        sizes.append(len(named["prompt_embeds"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(pipeline, **named)

    monkeypatch.setattr(kind, "__call__", call)
    with caplog.at_level(logging.WARNING, logger="dbbench"):
        drawn = [
            image.tobytes() for image in backbone.sample(texts, seeds=seeds, settings=settings)
        ]
    assert sizes == [4, 2, 2, 1]
    assert "out of memory: continuing with 2 images at a time" in caplog.text
    off = [
        max(abs(a - b) for a, b in zip(one, other, strict=True))
        for one, other in zip(drawn, expected, strict=True)
    ]
    assert max(off) <= 1


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_where_there_is_no_number_and_keeps_the_state_before(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = backbone.weights("unet")
    good = dreambooth(backbone, steps=8)
    real, calls = backbone.denoising_loss, iter(range(100))

    def loss(*arguments: Any, **named: Any) -> torch.Tensor:
        errors = real(*arguments, **named)
        if next(calls) != 3:
            return errors
        if what == "loss":
            return errors * float("nan")
        return errors + 0 * torch.sqrt(errors * 0)  # finite, and its derivative is not

    monkeypatch.setattr(backbone, "denoising_loss", loss)
    with pytest.raises(Diverged, match=rf"the {what} is (nan|inf) at step 4; lower the") as caught:
        dreambooth(backbone, steps=8)
    kept = caught.value.checkpoint
    assert len(kept.losses) == 3
    assert kept.losses == good.losses[:3]
    assert 0 < distance(kept.files[UNET], before) < distance(good.files[UNET], before)
    assert all(torch.isfinite(tensor).all() for tensor in kept.files[UNET].values())
    after = backbone.weights("unet")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_run_that_diverges_is_marked_and_the_others_go_on(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = "methods.dreambooth={steps=6,learning_rate=1e30,max_grad_norm=1e30,prior_weight=0}"
    outcome = run(suite, out, settings, subjects="can", methods=["dreambooth", "plain"])
    (failure,) = outcome.failures
    assert "at step" in failure.reason
    assert "lower the learning rate (1e+30)" in failure.reason
    assert "the state before that step is kept in" in failure.reason
    folder = out / "runs" / "dreambooth" / "can" / "0"
    kept = Checkpoint.load(folder / "last_good")
    assert all(torch.isfinite(tensor).all() for tensor in kept.files[UNET].values())
    assert not (folder / "checkpoint").exists()
    assert (out / "runs" / "plain" / "can" / "0" / "features").is_dir()
    run(
        suite, out, "methods.dreambooth={steps=1,prior_weight=0}", subjects="can",
        methods=["dreambooth"],
    )  # fmt: skip
    assert not (folder / "last_good").exists()


def test_runs_trained_together_are_those_trained_alone(suite: Suite, tmp_path: Path) -> None:
    settings = "methods.textual_inversion={steps=3,batch_size=2}"
    call: dict[str, Any] = {"subjects": "dog,can,vase", "methods": ["textual_inversion"]}
    outcome = run(suite, tmp_path / "together", settings, together=2, **call)
    assert outcome.failures == []
    run(suite, tmp_path / "alone", settings, **call)
    for subject in ("dog", "can", "vase"):
        folders = [
            tmp_path / place / "runs" / "textual_inversion" / subject / "0" / "checkpoint"
            for place in ("together", "alone")
        ]
        ours, theirs = (Checkpoint.load(folder).files[EMBEDS] for folder in folders)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-5)
    events = list(EventLog(tmp_path / "together").read())
    assert [e["together_with"] for e in events if "together_with" in e] == [
        "textual_inversion/dog/0"
    ]


@pytest.mark.parametrize("method", [DreamBooth, DreamBoothLora])
def test_checkpointing_changes_rounding_only(backbone: Backbone, method: Any) -> None:
    concept = Concept("plushie", "stuffed animal", CONCEPTS[0].images, PRIOR)
    fitted = method(method.Settings(**QUICK, identifier="sks"))
    plain = fitted.fit(concept, backbone, seed=2, progress=lambda *_: None)
    recipe = Recipe(at_once=3, checkpointing=True, offload=True)
    with applied(recipe, backbone, []):
        assert backbone.pipeline.unet.is_gradient_checkpointing
        again = fitted.fit(concept, backbone, seed=2, progress=lambda *_: None)
    assert not backbone.pipeline.unet.is_gradient_checkpointing
    torch.testing.assert_close(torch.tensor(again.losses), torch.tensor(plain.losses))


def stable_diffusion(batch: int) -> Demand:
    """Stable Diffusion 1.5 at 512 pixels, all of its UNet trained."""
    unet, helpers = 859_520_964, 83_653_863 + 123_060_480
    kept = int(1.16 * GIB)
    return Demand(4 * (unet + helpers), 4 * helpers, 2 * unet, unet, kept, batch)


@pytest.mark.parametrize(
    ("gigabytes", "moment_bytes", "recipe"),
    [
        (79, 4, Recipe(2)),
        (39, 4, Recipe(2)),
        (23, 4, Recipe(2)),
        (18.5, 4, Recipe(2, offload=True)),
        (17.5, 4, Recipe(1, offload=True)),
        (16.5, 4, Recipe(1, checkpointing=True, offload=True)),
        (15.5, 1, Recipe(2)),
        (11.5, 1, Recipe(1, checkpointing=True, offload=True)),
    ],
)
def test_the_recipe_follows_the_free_memory(
    gigabytes: float, moment_bytes: int, recipe: Recipe
) -> None:
    demand = replace(stable_diffusion(batch=2), bytes_per_moment=moment_bytes)
    chosen = choose(demand, int(gigabytes * GIB))
    assert chosen == recipe
    line = report(chosen, demand, int(gigabytes * GIB))
    assert f"{gigabytes:.0f} GiB free; {recipe.at_once} of 2 images at a time" in line
    assert "estimated peak" in line
    assert line.endswith("not measured")


def test_what_does_not_fit_is_tried_and_said() -> None:
    demand = stable_diffusion(batch=2)
    chosen = choose(demand, 15 * GIB)
    assert chosen == Recipe(1, checkpointing=True, offload=True)
    assert report(chosen, demand, 15 * GIB).endswith(
        "this does not fit: use dreambooth_lora or --set train.optimizer=adamw8bit"
    )


def test_more_memory_never_means_a_slower_recipe() -> None:
    demand = stable_diffusion(batch=8)
    peaks = [choose(demand, size * 2**30).estimate(demand) for size in range(8, 96, 4)]
    assert peaks == sorted(peaks)


def test_adapters_need_less_than_whole_layers(backbone: Backbone) -> None:
    from dbbench.generation import lora

    whole = list(backbone.module("unet").parameters())
    demand = measure(backbone, whole, batch=2)
    assert demand.trained == sum(weight.numel() for weight in whole)
    try:
        adapters = measure(backbone, lora.add(backbone, ["unet"], rank=2, seed=0), batch=2)
    finally:
        backbone.restore()
    assert adapters.trained < demand.trained / 2
    assert Recipe(2).estimate(adapters) < Recipe(2).estimate(demand)


def test_eight_bits_without_their_package_are_refused(backbone: Backbone) -> None:
    if find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(UserError, match="needs the package bitsandbytes"):
        dreambooth(backbone, optimizer="adamw8bit")


def test_runs_at_once_give_the_files_of_runs_in_turn(
    suite: Suite, tmp_path: Path, plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(plugin_folder))
    # One process on each of two devices; here both are the CPU.
    monkeypatch.setattr(
        "dbbench.running.executors.local.devices_of", lambda device: (device, device)
    )
    outcome = run(suite, tmp_path / "at-once", "methods.tinted.fail_on='dog'")
    (failure,) = outcome.failures
    assert failure.task.name == "tinted/dog/0"
    assert "cannot learn dog" in failure.reason
    assert failure.log.is_file()
    run(suite, tmp_path / "in-turn", "methods.tinted.fail_on='dog'")
    ours, theirs = (contents(tmp_path / place) for place in ("at-once", "in-turn"))
    assert ours == theirs
    assert len(ours) > 100
    processes = [
        [json.loads(line).get("stage") for line in path.read_text().splitlines()]
        for path in sorted((tmp_path / "at-once" / "events").iterdir())
    ]
    assert sum("train" in stages for stages in processes) == 2
    assert [stages.count("prior") for stages in processes if "prior" in stages] == [1, 1]
