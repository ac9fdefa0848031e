"""Progress: what a person sees while the executor works; bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dbbench.plan import Task

REFRESH = 4.0  # Per second.


class Advance(Protocol):
    """Hears how far a stage is: `done` of `total`, and figures such as the loss."""

    def __call__(self, done: int, total: int, figures: Mapping[str, Any], /) -> None:
        """Take note."""


def silent(done: int, total: int, figures: Mapping[str, Any], /) -> None:
    """Tell nobody."""


class Progress(Protocol):
    """Hears what the executor does."""

    def begin(self, task: Task, run: int, runs: int) -> None:
        """A task starts; it belongs to run number `run` of `runs` (0 where to none)."""

    def advance(self, done: int, total: int, detail: str) -> None:
        """The task is at `done` of `total` units; `detail` is a figure to show, such as a loss."""

    def end(self, summary: str, seconds: float | None = None) -> None:
        """The task has ended; `summary` says in a few words how.

        `seconds` is what it added to the whole, where that is not the time since its beginning.
        """

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""

    def status(self, text: str) -> None:
        """Say what is going on outside of tasks, such as loading."""


@dataclass
class Clock:
    """Tells how long the rest will take, from how long tasks of each kind took so far."""

    tasks: Sequence[Task]
    finished: int = 0
    _seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _begun: float = 0.0
    _share: float = 0.0

    def begin(self) -> None:
        """A task starts now."""
        self._begun, self._share = time.monotonic(), 0.0

    def advance(self, done: int, total: int) -> None:
        """That task is so far."""
        self._share = done / total if total else 0.0

    def end(self, task: Task, seconds: float | None = None) -> None:
        """It has ended."""
        took = time.monotonic() - self._begun if seconds is None else seconds
        self._seconds[task.kind].append(took)
        self.finished += 1

    @property
    def left(self) -> float | None:
        """Seconds until all tasks are done; None while nothing can be said."""
        rest = self.tasks[self.finished :]
        if not rest:
            return 0.0
        elapsed = time.monotonic() - self._begun
        typical = {kind: sum(took) / len(took) for kind, took in self._seconds.items()}
        if rest[0].kind not in typical and self._share > 0.02:
            typical[rest[0].kind] = elapsed / self._share
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
        done = typical.get(rest[0].kind, 0.0) * self._share
        return max(total - done, 0.0)


class PlainProgress:
    """One line for each finished task, for logs and pipes."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)
        self._task: Task | None = None

    def begin(self, task: Task, run: int, runs: int) -> None:
        """Remember the task."""
        self._task = task
        self._clock.begin()

    def advance(self, done: int, total: int, detail: str) -> None:
        """Update the time left."""
        self._clock.advance(done, total)

    def end(self, summary: str, seconds: float | None = None) -> None:
        """Print the task's line."""
        assert self._task is not None
        self._clock.end(self._task, seconds)
        count = f"[{self._clock.finished}/{len(self._clock.tasks)}]"
        left = self._clock.left
        tail = f", {duration(left)} left" if left else ""
        self.note(f"{count} {self._task.stage} {self._task.name}: {summary}{tail}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Print a line."""
        self.note(text)


class LiveProgress:
    """Two bars that stay at the bottom of the terminal: all tasks, and the steps of this one."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)
        self._task: Task | None = None
        self._run = self._runs = self._done = self._total = 0
        self._first = 0
        self._detail = self._status = ""
        self._begun = time.monotonic()
        self.live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=REFRESH,
            transient=True,
        )

    def begin(self, task: Task, run: int, runs: int) -> None:
        """Show the task."""
        self._task, self._run, self._runs = task, run or self._run, runs
        self._done = self._total = self._first = 0
        self._detail = self._status = ""
        self._begun = time.monotonic()
        self._clock.begin()

    def advance(self, done: int, total: int, detail: str) -> None:
        """Move the inner bar."""
        if not self._total:
            self._first = done  # Taken over from an interrupted attempt, or the very first step.
            self._begun = time.monotonic()
        self._done, self._total, self._detail = done, total, detail
        self._clock.advance(done, total)

    def end(self, summary: str, seconds: float | None = None) -> None:
        """Move the outer bar."""
        assert self._task is not None
        self._clock.end(self._task, seconds)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def status(self, text: str) -> None:
        """Show a line in place of the inner bar."""
        self._task, self._status = None, text

    def _render(self) -> Group:
        wide = self._console.width >= 100
        label, speed = (38, 32) if wide else (27, 20)
        table = Table.grid(padding=(0, 1), expand=False)
        table.add_column(width=label, no_wrap=True, overflow="ellipsis")
        table.add_column(width=max(6, self._console.width - label - speed - 3))
        table.add_column(width=speed, no_wrap=True, overflow="ellipsis")
        left = self._clock.left
        time_left = f"{duration(left)} left" if left is not None else "estimating"
        overall = f"run {self._run} of {self._runs}" if self._runs else "all stages"
        table.add_row(
            Text(overall, style="bold"),
            ProgressBar(total=max(len(self._clock.tasks), 1), completed=self._clock.finished),
            Text(time_left),
        )
        if self._task is None:
            return Group(table, Text(self._status, style="dim", no_wrap=True, overflow="ellipsis"))
        table.add_row(
            Text(f"{self._task.stage} {self._task.name}"),
            ProgressBar(total=self._total or None, completed=self._done, pulse=not self._total),
            Text(self._speed(wide)),
        )
        return Group(table)

    def _speed(self, wide: bool) -> str:
        seconds = time.monotonic() - self._begun
        if not self._total or self._done <= self._first or seconds < 0.2:
            return f"{self._done}/{self._total}" if self._total else ""
        assert self._task is not None
        unit = "step" if self._task.stage == "train" else "img"
        rate = f"{(self._done - self._first) / seconds:.3g} {unit}/s"
        detail = f" {self._detail}" if wide and self._detail else ""
        return f"{self._done}/{self._total} {rate}{detail}"


@contextmanager
def show(console: Console, tasks: Sequence[Task]) -> Iterator[Progress]:
    """Give the progress display that suits the console."""
    if not console.is_terminal:
        yield PlainProgress(console, tasks)
        return
    progress = LiveProgress(console, tasks)
    with progress.live:
        yield progress


def duration(seconds: float) -> str:
    """Return a time span as a person says it: "45 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
