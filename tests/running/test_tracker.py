"""Claims about --tracker, with the real packages and no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbench.errors import UserError
from dbbench.planning.task import Task
from dbbench.running.display.tracker import TrackerKind, check_tracker, tracked
from dbbench.suites.runs import Run

TASK = Task("train", "plain/dog/0", (), Run("plain", "dog", 0), "dog")


def test_tensorboard_shows_each_training_as_a_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked(TrackerKind.tensorboard, TASK, tmp_path) as record:
        record(5, {"loss": 0.5})
        record(10, {"loss": 0.25, "note": "no number"})
    shown = EventAccumulator(str(tmp_path / "tracking/plain/dog/0"))
    shown.Reload()
    losses = [(event.step, event.value) for event in shown.Scalars("train/loss")]
    assert losses == [(5, 0.5), (10, 0.25)]


@pytest.mark.slow
def test_wandb_keeps_each_training_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracked(TrackerKind.wandb, TASK, tmp_path) as record:
        record(5, {"loss": 0.5})
    assert list((tmp_path / "tracking").rglob("*.wandb"))


def test_other_stages_and_no_tracker_write_nothing(tmp_path: Path) -> None:
    sampling = Task("sample", "plain/dog/0", (), Run("plain", "dog", 0), "dog")
    for kind, task in ((None, TASK), (TrackerKind.tensorboard, sampling)):
        with tracked(kind, task, tmp_path) as record:
            record(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "dbbench\[wandb\]"'):
        check_tracker(TrackerKind.wandb)
