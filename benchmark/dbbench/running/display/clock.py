"""The remaining time, estimated from the durations of finished tasks of each kind."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from dbbench.planning.task import Task


@dataclass
class Running:
    """A task in progress."""

    task: Task
    begun: float
    share: float = 0.0
    """Of its steps or images that are done, in [0, 1]."""

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun


@dataclass
class Clock:
    """Measures tasks that begin and end, one at a time in each worker."""

    tasks: Sequence[Task]
    finished: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    """By the name of the worker."""
    _seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _ended: set[str] = field(default_factory=set)

    def begin(self, task: Task, worker: str = "") -> None:
        """Record that `worker` starts a task."""
        self.running[worker] = Running(task, time.monotonic())

    def advance(self, done: int, total: int, worker: str = "") -> None:
        """Record that `done` of `total` units of that worker's task are done."""
        if worker in self.running:
            self.running[worker].share = done / total if total else 0.0

    def end(self, task: Task, worker: str = "") -> None:
        """Record that a task has ended, with its duration."""
        running = self.running.pop(worker, None)
        if running is not None and running.task.key == task.key:
            self._seconds[task.kind].append(running.seconds)
        self._ended.add(task.key)
        self.finished += 1

    @property
    def left(self) -> float | None:
        """Estimated seconds until all tasks are done; None while there is no basis for one."""
        rest = [task for task in self.tasks if task.key not in self._ended]
        if not rest:
            return 0.0
        typical = {kind: sum(took) / len(took) for kind, took in self._seconds.items()}
        for running in self.running.values():
            if running.task.kind not in typical and running.share > 0.02:
                typical[running.task.kind] = running.seconds / running.share
        by_stage: defaultdict[str, list[float]] = defaultdict(list)
        for kind, seconds in typical.items():
            by_stage[kind.split()[0]].append(seconds)
        total = 0.0
        for task in rest:
            similar = by_stage.get(task.stage)
            if task.kind in typical:
                total += typical[task.kind]
            elif similar:
                total += sum(similar) / len(similar)
            elif task.stage in {"train", "sample"}:
                return None  # No task of the stages that take longest was measured yet.
        for running in self.running.values():
            total -= typical.get(running.task.kind, 0.0) * running.share
        return max(total / max(1, len(self.running)), 0.0)
