"""Training losses for TensorBoard or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.errors import UserError

if TYPE_CHECKING:
    from dbbench.planning.task import Task

RecordFigures = Callable[[int, Mapping[str, Any]], None]
"""Called with the number of steps done and figures such as the loss."""


class TrackerKind(StrEnum):
    """The values of --tracker."""

    tensorboard = "tensorboard"
    wandb = "wandb"


def check_tracker(kind: TrackerKind | None) -> None:
    """Raise UserError if the tracker's package is not installed."""
    from importlib.util import find_spec

    if kind is not None and find_spec(kind.value) is None:
        raise UserError(f'--tracker {kind} needs a package: pip install "dbbench[{kind}]"')


@contextmanager
def tracked(kind: TrackerKind | None, task: Task, out: Path) -> Iterator[RecordFigures]:
    """Yield a function that records the figures of a training; for other tasks it does nothing.

    Each training is a run of its own, "method/subject/seed". The files are in OUT/tracking; with
    wandb the project has the name of OUT, and WANDB_MODE=offline uploads nothing.
    """
    if kind is None or task.stage != "train" or task.run is None:
        yield lambda done, figures: None
        return
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState(cpu=True)  # The trackers use it to log; here it chooses no device.
    folder = out / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    if kind is TrackerKind.tensorboard:
        tracker: Any = TensorBoardTracker(str(task.run), logging_dir=folder)
    else:
        os.environ.setdefault("WANDB_SILENT", "true")
        project = out.resolve().name
        tracker = WandBTracker(project, name=str(task.run), dir=str(folder), reinit=True)
    tracker.start()
    try:
        if kind is TrackerKind.wandb:
            tracker.store_init_configuration(asdict(task.run))

        def record(done: int, figures: Mapping[str, Any]) -> None:
            numbers = {f"train/{k}": v for k, v in figures.items() if isinstance(v, int | float)}
            tracker.log(numbers, step=done)

        yield record
    finally:
        tracker.finish()
