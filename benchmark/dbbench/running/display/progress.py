"""Progress: what is seen while the executor works; bars on a terminal, lines or JSON elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dbbench.planning.task import Task
from dbbench.running.display.clock import Clock
from dbbench.units import duration, per_second

REFRESH = 4.0  # Per second.
ROWS = 8  # Tasks under way that are shown at once.


class Progress(Protocol):
    """Hears what the executor does.

    `worker` names one of several processes that are at work at once; each does one task at a time.
    """

    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        """A task starts; it belongs to run number `run` of `runs` (0 where to none)."""

    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        """The task is at `done` of `total` units; `detail` is a figure to show, such as a loss."""

    def end(self, summary: str, worker: str = "") -> None:
        """The task has ended; `summary` says in a few words how."""

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""

    def status(self, text: str) -> None:
        """Say what is going on outside of tasks, such as loading."""


class PlainProgress:
    """One line for each finished task, for logs and pipes."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)

    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        """Remember the task."""
        self._clock.begin(task, worker)

    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        """Update the time left."""
        self._clock.advance(done, total, worker)

    def end(self, summary: str, worker: str = "") -> None:
        """Print the task's line."""
        task = self._clock.running[worker].task
        self._clock.end(task, worker)
        count = f"[{self._clock.finished}/{len(self._clock.tasks)}]"
        left = self._clock.left
        tail = f", {duration(left)} left" if left else ""
        self.note(f"{count} {task.stage} {task.name}: {summary}{tail}")

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Print a line."""
        self.note(text)


class JsonProgress:
    """One JSON object a line for all that happens, for programs that read along."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)

    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        """Say that a task starts."""
        self._clock.begin(task, worker)
        self._say("begin", **_about(task, worker), run=run, runs=runs)

    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        """Steps are in no log; how far a task is moves the time left."""
        self._clock.advance(done, total, worker)

    def end(self, summary: str, worker: str = "") -> None:
        """Say that it has ended, and how long all the rest will take."""
        running = self._clock.running[worker]
        seconds = round(running.seconds, 3)
        self._clock.end(running.task, worker)
        left = self._clock.left
        self._say(
            "end",
            **_about(running.task, worker),
            summary=summary,
            seconds=seconds,
            finished=self._clock.finished,
            tasks=len(self._clock.tasks),
            seconds_left=None if left is None else round(left, 1),
        )

    def note(self, text: str) -> None:
        """Say something."""
        self._say("note", text=text)

    def status(self, text: str) -> None:
        """Say what is going on."""
        self._say("status", text=text)

    def _say(self, event: str, **content: Any) -> None:
        say_json(self._console, event, **content)


@dataclass
class _Row:
    """One task's bar."""

    task: Task
    begun: float
    done: int = 0
    total: int = 0
    first: int = 0
    detail: str = ""

    def speed(self, wide: bool) -> str:
        seconds = time.monotonic() - self.begun
        if not self.total or self.done <= self.first or seconds < 0.2:
            return f"{self.done}/{self.total}" if self.total else ""
        unit = "step" if self.task.stage == "train" else "img"
        rate = f"{per_second((self.done - self.first) / seconds)} {unit}/s"
        detail = f" {self.detail}" if wide and self.detail else ""
        return f"{self.done}/{self.total} {rate}{detail}"


class LiveProgress:
    """Bars that stay at the bottom of the terminal: all tasks, and each that is under way."""

    def __init__(self, console: Console, tasks: Sequence[Task]) -> None:
        self._console, self._clock = console, Clock(tasks)
        self._rows: dict[str, _Row] = {}
        self._run = self._runs = 0
        self._status = ""
        self.live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=REFRESH,
            transient=True,
        )

    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        """Show the task."""
        self._run, self._runs = max(run, self._run), runs or self._runs
        self._rows[worker] = _Row(task, time.monotonic())
        self._status = ""
        self._clock.begin(task, worker)

    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        """Move its bar."""
        if (row := self._rows.get(worker)) is None:
            return
        if not row.total:
            row.first = done  # Taken over from an interrupted attempt, or the very first step.
            row.begun = time.monotonic()
        row.done, row.total, row.detail = done, total, detail
        self._clock.advance(done, total, worker)

    def end(self, summary: str, worker: str = "") -> None:
        """Move the bar of all tasks."""
        self._clock.end(self._rows.pop(worker).task, worker)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def status(self, text: str) -> None:
        """Show a line in place of the inner bars."""
        self._status = text

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
        rows = list(self._rows.values())
        for row in rows[:ROWS]:
            table.add_row(
                Text(f"{row.task.stage} {row.task.name}"),
                ProgressBar(total=row.total or None, completed=row.done, pulse=not row.total),
                Text(row.speed(wide)),
            )
        more = f"and {len(rows) - ROWS} more under way" if len(rows) > ROWS else ""
        if line := more or self._status:
            return Group(table, Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(table)


@contextmanager
def show(console: Console, tasks: Sequence[Task], *, as_json: bool = False) -> Iterator[Progress]:
    """Give the progress display that suits the console, or with `as_json` lines of JSON."""
    if as_json or not console.is_terminal:
        yield (JsonProgress if as_json else PlainProgress)(console, tasks)
        return
    progress = LiveProgress(console, tasks)
    with progress.live:
        yield progress


def say_json(console: Console, event: str, **content: Any) -> None:
    """Print one line of JSON with the time of day (UTC)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
    text = json.dumps(line | content, ensure_ascii=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _about(task: Task, worker: str) -> dict[str, str]:
    about = {"stage": task.stage, "name": task.name}
    return about | ({"worker": worker} if worker else {})
