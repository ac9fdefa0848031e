"""Training losses for TensorBoard or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.errors import UserError

if TYPE_CHECKING:
    from dbbench.planning.task import Task

RecordFigures = Callable[[int, Mapping[str, Any]], None]
"""Called with the number of steps done and figures such as the loss."""


class TrackerKind(StrEnum):
    """The trackers that --tracker supports."""

    tensorboard = "tensorboard"
    wandb = "wandb"


def check_tracker(kind: TrackerKind | None) -> None:
    """Raise UserError if the tracker's package is not installed."""
    from importlib.util import find_spec

    if kind is not None and find_spec(kind.value) is None:
        raise UserError(f'--tracker {kind} needs a package: pip install "dbbench[{kind}]"')


@contextmanager
def tracked(kind: TrackerKind | None, task: Task, out: Path) -> Iterator[RecordFigures]:
    """Yield a function that records the figures of a training; without effect for other tasks.

    Each training is a tracker run named "method/subject/seed" in OUT/tracking. With wandb, the
    project has the name of OUT, and WANDB_MODE=offline keeps all data in that folder.
    """
    if kind is None or task.stage != "train" or task.run is None:
        yield lambda done, figures: None
        return
    tracker = _start(kind, str(task.run), out)
    try:
        facts = {"method": task.run.method, "subject": task.run.subject, "seed": task.run.seed}
        if kind is TrackerKind.wandb:
            tracker.store_init_configuration(facts)

        def record(done: int, figures: Mapping[str, Any]) -> None:
            numbers = {f"train/{k}": v for k, v in figures.items() if isinstance(v, int | float)}
            tracker.log(numbers, step=done)

        yield record
    finally:
        tracker.finish()


def _start(kind: TrackerKind, name: str, out: Path) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState(cpu=True)  # Its trackers log through it; it chooses no device for us.
    folder = out / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    if kind is TrackerKind.tensorboard:
        tracker: Any = TensorBoardTracker(name, logging_dir=folder)
    else:
        os.environ.setdefault("WANDB_SILENT", "true")
        tracker = WandBTracker(out.resolve().name, name=name, dir=str(folder), reinit=True)
    tracker.start()
    return tracker
