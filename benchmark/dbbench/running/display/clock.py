"""How long the rest will take, from how long tasks of each kind took so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from dbbench.planning.task import Task


@dataclass
class Running:
    """A task that somebody is at."""

    task: Task
    begun: float
    share: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self.begun


@dataclass
class Clock:
    """Measures tasks that begin and end, one at a time in each worker."""

    tasks: Sequence[Task]
    finished: int = 0
    running: dict[str, Running] = field(default_factory=dict)
    """By worker."""
    _seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _ended: set[str] = field(default_factory=set)

    def begin(self, task: Task, worker: str = "") -> None:
        """Start the clock of a task that `worker` does."""
        self.running[worker] = Running(task, time.monotonic())

    def advance(self, done: int, total: int, worker: str = "") -> None:
        """That worker's task is so far."""
        if worker in self.running:
            self.running[worker].share = done / total if total else 0.0

    def end(self, task: Task, worker: str = "") -> None:
        """Count the task as finished, with the seconds that it took."""
        running = self.running.pop(worker, None)
        if running is not None and running.task.key == task.key:
            self._seconds[task.kind].append(running.seconds)
        self._ended.add(task.key)
        self.finished += 1

    @property
    def left(self) -> float | None:
        """Seconds until all tasks are done; None while nothing can be said."""
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
                return None  # What takes longest has not been seen yet.
        for running in self.running.values():
            total -= typical.get(running.task.kind, 0.0) * running.share
        return max(total / max(1, len(self.running)), 0.0)
