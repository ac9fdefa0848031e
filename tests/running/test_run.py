from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest
from harness import contents, installed, plugin_folder, run, suite, suite_file, written  # noqa: F401

from dbbench.errors import UserError
from dbbench.running import images as image_files
from dbbench.running.workspace import Workspace
from dbbench.storage.events import EventLog
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name


def scores(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "scores.parquet")


def stages_redone(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The last parts of the paths of artifacts that were made anew, such as {"samples"}."""
    changed = {name for name, time in after.items() if before.get(name) != time}
    return {name.split("/")[-2 if "/features/" in name else -1] for name in changed}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for one finished output folder that tests copy."""
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def out(tmp_path: Path, finished: Path, suite: Suite) -> Path:
    """A finished run of two methods on two subjects."""
    if not finished.is_dir():
        outcome = run(suite, finished)
        assert not outcome.failures
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_a_run_leaves_every_stage_and_a_score_for_every_image(out: Path, suite: Suite) -> None:
    table = scores(out)
    generated = table[table["method"] != "real-images"]
    assert len(generated) == 2 * 2 * 25 * 3
    assert set(table["metric"]) == {"dino", "clip-i", "clip-t"}
    assert set(table[table["method"] == "real-images"]["metric"]) == {"dino", "clip-i"}
    for name in ("leaderboard.csv", "leaderboard.md", "leaderboard.parquet", "report/index.html"):
        assert (out / name).is_file()
    assert not list(out.rglob(".*.tmp"))
    assert not list(out.rglob("*.partial"))


def test_class_images_are_made_once_for_a_class_and_only_where_a_method_needs_them(
    tmp_path: Path, suite: Suite
) -> None:
    run(suite, tmp_path / "a", subjects="dog,dog2", methods=["tinted"])
    events = list(EventLog(tmp_path / "a").read())
    assert [event["name"] for event in events if event["stage"] == "prior"] == ["dog"]
    run(suite, tmp_path / "b", subjects="dog", methods=["plain"])
    assert not (tmp_path / "b" / "prior").exists()


def test_a_second_call_does_nothing(out: Path, suite: Suite) -> None:
    before = written(out), contents(out, "scores.parquet", "report/**/*", "leaderboard.*")
    outcome = run(suite, out)
    assert (outcome.done, outcome.failures) == (0, [])
    after = written(out), contents(out, "scores.parquet", "report/**/*", "leaderboard.*")
    assert after == before


def test_the_same_seed_gives_the_same_images_and_scores(
    out: Path, suite: Suite, tmp_path: Path
) -> None:
    run(suite, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(out)
    assert scores(tmp_path / "again").equals(scores(out))


def test_another_seed_gives_other_images(out: Path, suite: Suite) -> None:
    run(suite, out, subjects="dog", methods=["plain"], seeds=[1])
    images = contents(out, "runs/plain/dog/*/samples/jungle/0.png")
    assert len(images) == 2
    assert len(set(images.values())) == 2


@pytest.mark.parametrize(
    ("setting", "redone"),
    [
        ("sample.guidance=2", {"samples", "features"}),
        ("sample.batch_size=5", set()),
        ("encoders.dino='pixels:5'", {"features", "dog", "can"}),
        ("prior.count=4", {"dog", "can", "checkpoint", "samples", "features"}),
        ("methods.plain.steps=4", {"checkpoint", "samples", "features"}),
        ("prior.sampler.batch_size=1", set()),
        ("banner='another'", set()),
    ],
)
def test_a_change_redoes_what_follows_from_it_and_nothing_else(
    out: Path, suite: Suite, setting: str, redone: set[str]
) -> None:
    before = written(out)
    run(suite, out, setting)
    after = written(out)
    changed = {name for name in after if after[name] != before.get(name)}
    if setting.startswith("encoders"):
        assert {name.rpartition("/")[2] for name in changed} == {"dino"}
    elif setting.startswith("methods.plain"):
        assert all(name.startswith("runs/plain/") for name in changed)
        assert len(changed) == 2 * 4
    elif setting.startswith("prior.count"):
        assert all(name.startswith(("prior/", "runs/tinted/")) for name in changed)
        assert len(changed) == 2 + 2 * 4
    else:
        assert stages_redone(before, after) == redone


def test_other_weights_of_an_encoder_are_noticed(
    out: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(out)
    monkeypatch.setenv("PIXELS_VERSION", "2")
    monkeypatch.setattr("dbbench.planning.identity.versions", lambda: {"timm": "another"})
    run(suite, out)
    after = written(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if "features/" in name}


def test_more_subjects_join_and_the_table_covers_everything(out: Path, suite: Suite) -> None:
    before = written(out)
    run(suite, out, subjects="teapot", methods=["plain"])
    after = written(out)
    assert {name: after[name] for name in before} == before
    table = scores(out)
    assert set(table["subject"]) == {"dog", "can", "teapot"}
    missing = table[(table["method"] == "tinted") & (table["subject"] == "teapot")]
    assert missing.empty
    board = pd.read_csv(out / "leaderboard.csv").set_index("method")
    assert pd.isna(board.loc["tinted", "dino_rank"])
    assert board.loc["plain", "dino_rank"] == 1


@pytest.mark.parametrize(
    "setting", ["name='other'", "backbone.path='x/y'", "backbone.resolution=8"]
)
def test_a_folder_of_another_suite_is_refused(out: Path, suite: Suite, setting: str) -> None:
    before = contents(out)
    with pytest.raises(UserError) as caught:
        run(suite, out, setting)
    message = str(caught.value)
    assert message.count('suite "') == 2
    assert "choose another --out" in message
    assert contents(out) == before


def test_a_failed_run_stops_no_other_and_is_tried_again(tmp_path: Path, suite: Suite) -> None:
    out = tmp_path / "out"
    outcome = run(suite, out, "methods.tinted.fail_on=dog")
    (failure,) = outcome.failures
    assert (failure.task.stage, failure.task.name) == ("train", "tinted/dog/0")
    assert failure.reason == "RuntimeError: cannot learn dog"
    events = list(EventLog(out).read())
    of_dog = [
        e["status"] for e in events if (e["stage"], e.get("name")) == ("train", failure.task.name)
    ]
    assert of_dog[:2] == ["retried", "failed"]
    assert "Traceback" in failure.log.read_text()
    counts = scores(out).query("metric == 'dino'").groupby(["method", "subject"]).size()
    assert ("tinted", "dog") not in counts.index
    assert counts["tinted", "can"] == counts["plain", "dog"] == 25
    assert not run(suite, out).failures
    assert not failure.log.exists()
    assert len(scores(out).query("method == 'tinted' and metric == 'dino'")) == 50


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "remove"])
def test_damaged_samples_are_made_again_where_they_are_needed(
    out: Path, suite: Suite, damage: str
) -> None:
    before = contents(out)
    folder = out / "runs/plain/dog/0/samples"
    image = folder / "jungle/0.png"
    if damage == "truncate":
        image.write_bytes(image.read_bytes()[:40])
    elif damage == "flip":
        content = bytearray(image.read_bytes())
        content[-20] ^= 255
        image.write_bytes(content)
        shutil.rmtree(out / "runs/plain/dog/0/features")
    elif damage == "manifest":
        (folder / "manifest.json").unlink()
    else:
        shutil.rmtree(folder)
    run(suite, out)
    assert contents(out) == before


def test_a_checkpoint_that_is_gone_is_missed_only_by_new_samples(out: Path, suite: Suite) -> None:
    shutil.rmtree(out / "runs/plain/dog/0/checkpoint")
    assert run(suite, out).done == 0
    assert not (out / "runs/plain/dog/0/checkpoint").exists()
    run(suite, out, "sample.guidance=1")
    assert (out / "runs/plain/dog/0/checkpoint").is_dir()


def test_checkpoints_can_be_dropped_once_sampled(tmp_path: Path, suite: Suite) -> None:
    run(suite, tmp_path, "keep_checkpoints=false", subjects="dog")
    assert not list(tmp_path.rglob("checkpoint"))
    assert run(suite, tmp_path, "keep_checkpoints=false", subjects="dog").done == 0


def test_too_small_a_disk_is_said_before_anything_is_made(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=r"needs about .* more, but the disk has 1 MB free"):
        run(suite, tmp_path / "out")
    assert not (tmp_path / "out" / "references").exists()


@pytest.mark.parametrize("words", [None, "Error while serializing: No space left on device (28)"])
def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(
    tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch, words: str | None
) -> None:
    real, calls = image_files.save_png, []

    def save(image: object, path: Path) -> str:
        calls.append(path)
        if len(calls) > 40:
            raise RuntimeError(words) if words else OSError(errno.ENOSPC, os.strerror(28))
        return real(image, path)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "save_png", save)
    with pytest.raises(UserError, match="no space left on the disk of .* rerun the same command"):
        run(suite, tmp_path / "out")
    monkeypatch.setattr(image_files, "save_png", real)
    kept = written(tmp_path / "out")
    assert "runs/tinted/dog/0/samples" in kept
    run(suite, tmp_path / "out")
    assert kept.items() <= written(tmp_path / "out").items()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, suite: Suite) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another|choose a folder"):
        run(suite, tmp_path / "file")
    with pytest.raises(UserError, match="choose another|choose a folder"):
        run(suite, tmp_path / "file" / "below")


def test_events_of_several_processes_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    lines = {
        "events/a-1.jsonl": [("2026-01-02T00:00:00.000+00:00", "a"), ("2026-01-04", "last")],
        "events/b-1.jsonl": [("2026-01-03T00:00:00.000+00:00", "b")],
    }
    for name, events in lines.items():
        text = "".join(json.dumps({"time": t, "stage": s}) + "\n" for t, s in events)
        (tmp_path / name).write_text(text + '{"time": "2026-01-02T00')  # And then it crashed.
    assert [e["stage"] for e in EventLog(tmp_path).read()] == ["a", "b", "last"]
    EventLog(tmp_path).write(stage="now")
    assert EventLog(tmp_path).read()[-1]["stage"] == "now"
    assert len(list((tmp_path / "events").iterdir())) == 3


def test_events_tell_what_each_stage_cost(out: Path, suite: Suite) -> None:
    events = list(EventLog(out).read())
    by_stage = {event["stage"]: event for event in events}
    assert set(by_stage) == {
        "start", "references", "prior", "train", "sample", "encode", "score"
    }  # fmt: skip
    assert by_stage["train"]["steps"] == 3
    assert by_stage["sample"]["images"] == 25
    assert by_stage["sample"]["images_per_second"] > 0
    assert by_stage["sample"]["run"] == {"method": "plain", "subject": "can", "seed": 0}
    assert by_stage["sample"]["peak_rss_bytes"] > 10**7
    assert all(event["seconds"] >= 0 for event in events if event.get("status") == "done")


def test_the_record_says_what_was_run_and_with_what(out: Path, suite: Suite) -> None:
    record = json.loads((out / "suite.json").read_text())
    assert record["selection"] == {
        "subjects": ["can", "dog"], "methods": ["tinted", "plain"], "seeds": [0]
    }  # fmt: skip
    assert {"dbbench", "torch", "diffusers", "numpy"} <= set(record["versions"])
    assert record["identities"]["methods"]["tinted"]["settings"]["steps"] == 3
    assert Workspace(out).suite() == suite


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.stepz=3"], 'unknown training setting "train.stepz"; did you mean "train.steps"?'),
        (["methods.tinted.stepz=3"], 'unknown key "stepz"; did you mean "steps"?'),
        (["methods.tintet={}"], 'unknown method "tintet"; did you mean "tinted"?'),
        (["metrics=['dyno']"], 'unknown metric "dyno"; did you mean "dino"?'),
        (["encoders.dino=pixel"], 'unknown encoder "pixel"; did you mean "pixels"?'),
        (["encoders={dino='pixels:4'}"], 'metric clip-i needs an encoder for role "clip"'),
        (["backbone.path=./no/such"], 'no backbone "./no/such"'),
    ],
)
def test_a_wrong_choice_is_one_line_before_anything_is_made(
    tmp_path: Path, suite: Suite, settings: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(suite, tmp_path / "out", *settings)
    assert message in str(caught.value)
    assert not (tmp_path / "out" / "references").exists()
