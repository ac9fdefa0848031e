"""Times of a run's stages, loss curves of its trainings and its machine, from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbbench.reports.results import Results
from dbbench.storage.events import EventLog
from dbbench.storage.run_folder import runs_in, training_of
from dbbench.units import duration, per_second

POINTS = 120
"""Maximum number of points of a curve; a longer one is averaged in bins."""


@dataclass(frozen=True)
class Curve:
    """The losses of one training, averaged in bins; `steps` are the bins' ends."""

    method: str
    subject: str
    steps: NDArray[np.float64]
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class StageCost:
    """The time of one stage, and the number of its results with their unit."""

    stage: str
    seconds: float
    count: int
    unit: str

    @property
    def line(self) -> str:
        """In words: "12 min, 6,000 images, 8.30 a second"."""
        text = duration(self.seconds)
        if self.count and self.unit:
            rate = self.count / max(self.seconds, 1e-9)
            text += f", {self.count:,} {self.unit}, {per_second(rate)} a second"
        return text


def read_curves(results: Results) -> tuple[Curve, ...]:
    """Return the losses of all trainings whose checkpoint exists."""
    curves = []
    for run in runs_in(results.out):
        if run.subject not in results.leaderboard.expectation.subjects:
            continue
        training = training_of(results.out, run)
        losses = np.asarray(training.losses if training else (), dtype=np.float64)
        if len(losses) > 1 and np.isfinite(losses).all():
            bins = np.array_split(np.arange(len(losses)), min(POINTS, len(losses)))
            ends = np.array([float(part[-1] + 1) for part in bins])
            means = np.array([float(losses[part].mean()) for part in bins])
            curves.append(Curve(run.method, run.subject, ends, means))
    return tuple(curves)


def read_costs(results: Results) -> tuple[StageCost, ...]:
    """Return the time of each stage, in the order in which they first ran.

    If a task was done again after a change of its settings, the last time counts.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for event in EventLog(results.out).read():
        if event.get("status") == "done" and isinstance(event.get("seconds"), int | float):
            found.setdefault(str(event["stage"]), {})[str(event.get("name"))] = event
    costs = []
    for stage, by_task in found.items():
        events = by_task.values()
        unit = next((u for u in ("steps", "images") if any(u in event for event in events)), "")
        count = sum(int(event.get(unit, 0)) for event in events)
        costs.append(StageCost(stage, sum(event["seconds"] for event in events), count, unit))
    return tuple(costs)


def machine(results: Results) -> str:
    """Return device, GPU, threads and Python of the last call, as far as recorded."""
    found: Mapping[str, Any] = {}
    for event in EventLog(results.out).read():
        if event.get("stage") == "start":
            found = event
    parts = [str(found[key]) for key in ("device", "gpu") if found.get(key)]
    if "threads" in found:
        parts.append(f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}")
    if "python" in found:
        parts.append(f"Python {found['python']}")
    return ", ".join(parts)
