"""Progress display of an executor: bars on a terminal, else lines of text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import TaskID
from typing_extensions import override

from dbbench.bars import make_bars
from dbbench.planning.task import Task
from dbbench.running.display.clock import Clock
from dbbench.units import duration

ROWS = 8  # Bars of running tasks that are visible at once.
_STATUS = "status"  # Key of the status line, where others are names of workers.


class Progress(Protocol):
    """Shows what the executor does.

    `worker` names one of several parallel processes; each does one task at a time.
    """

    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        """Show that a task starts; it belongs to run number `run` of `runs`, or `run` is 0."""

    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        """Show that `done` of `total` units are done, and `detail`, such as the loss."""

    def end(self, summary: str, worker: str = "") -> None:
        """Show that the task has ended, with a `summary` of a few words."""

    def note(self, text: str) -> None:
        """Print a line that stays on the screen."""

    def status(self, text: str) -> None:
        """Show an activity outside of tasks, such as loading."""


class PlainProgress(Progress):
    """One line for each finished task, for logs and pipes."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)

    @override
    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        self._clock.begin(task, worker)

    @override
    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        self._clock.advance(done, total, worker)

    @override
    def end(self, summary: str, worker: str = "") -> None:
        task = self._clock.running[worker].task
        self._clock.end(task, worker)
        count = f"[{self._clock.finished}/{len(self._clock.tasks)}]"
        left = self._clock.left
        tail = f", {duration(left)} left" if left else ""
        self.note(f"{count} {task.stage} {task.name}: {summary}{tail}")

    @override
    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @override
    def status(self, text: str) -> None:
        self.note(text)


class JsonProgress(PlainProgress):
    """One JSON object per line for each event except single steps, for other programs."""

    @override
    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        super().begin(task, run, runs, worker)
        self._print("begin", **_about(task, worker), run=run, runs=runs)

    @override
    def end(self, summary: str, worker: str = "") -> None:
        running = self._clock.running[worker]
        seconds = round(running.seconds, 3)
        self._clock.end(running.task, worker)
        left = self._clock.left
        self._print(
            "end",
            **_about(running.task, worker),
            summary=summary,
            seconds=seconds,
            finished=self._clock.finished,
            tasks=len(self._clock.tasks),
            seconds_left=None if left is None else round(left, 1),
        )

    @override
    def note(self, text: str) -> None:
        self._print("note", text=text)

    @override
    def status(self, text: str) -> None:
        self._print("status", text=text)

    def _print(self, event: str, **content: Any) -> None:
        print_json(self._console, event, **content)


class LiveProgress(Progress):
    """Bars at the bottom of the terminal: one for all tasks, and one for each running task."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)
        self._bars = make_bars(console)
        self.live = self._bars.live
        self._all = self._bars.add_task("all stages", total=max(len(tasks), 1))
        self._below: dict[str, TaskID] = {}
        """The bar of each worker, and the status line."""
        self._run = 0
        self._update_total()

    @override
    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        self._clock.begin(task, worker)
        self._hide(_STATUS)
        self._below[worker] = self._bars.add_task(
            f"{task.stage} {task.name}",
            total=None,
            visible=len(self._below) < ROWS,
            unit="step" if task.stage == "train" else "img",
        )
        if runs:
            self._run = max(run, self._run)
            self._bars.update(self._all, description=f"run {self._run} of {runs}")
        self._update_total()

    @override
    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        if worker in self._below:
            bar = self._below[worker]
            self._bars.update(bar, completed=done, total=total or None, detail=detail)
            self._clock.advance(done, total, worker)
            self._update_total()

    @override
    def end(self, summary: str, worker: str = "") -> None:
        self._clock.end(self._clock.running[worker].task, worker)
        self._hide(worker)
        self._update_total()

    @override
    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    @override
    def status(self, text: str) -> None:
        self._hide(_STATUS)
        self._below[_STATUS] = self._bars.add_task(text, total=None)

    def _hide(self, worker: str) -> None:
        """Remove a bar, and show one that had no room before."""
        if worker in self._below:
            self._bars.remove_task(self._below.pop(worker))
        for bar in list(self._below.values())[:ROWS]:
            self._bars.update(bar, visible=True)

    def _update_total(self) -> None:
        left, hidden = self._clock.left, len(self._below) - ROWS
        more = f"and {hidden} more running" if hidden > 0 else ""
        detail = "estimating" if left is None else more
        self._bars.update(self._all, completed=self._clock.finished, left=left, detail=detail)


@contextmanager
def show(console: Console, tasks: Sequence[Task], *, as_json: bool = False) -> Iterator[Progress]:
    """Yield the progress display for the console, or with `as_json` lines of JSON."""
    if as_json or not console.is_terminal:
        yield (JsonProgress if as_json else PlainProgress)(console, tasks)
        return
    progress = LiveProgress(console, tasks)
    with progress.live:
        yield progress


def print_json(console: Console, event: str, **content: Any) -> None:
    """Print one line of JSON with the time of day (UTC)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    text = json.dumps(line | content, ensure_ascii=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _about(task: Task, worker: str) -> dict[str, str]:
    about = {"stage": task.stage, "name": task.name}
    return about | ({"worker": worker} if worker else {})
