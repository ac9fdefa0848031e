"""Sends progress from one process to another, which shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.suites.runs import Run

Message = tuple[str, str, Any]
"""Name of the worker, kind of event, and its data."""
SECONDS = 0.5  # Between two messages about the progress of a task.


@dataclass
class Relay(Progress):
    """Sends the progress of one worker to another process, at most twice a second."""

    worker: str
    put: Callable[[Message], object]
    summary: str = ""
    """Of the last task that ended."""
    _sent: float = 0.0

    @override
    def begin(self, task: Task, run: int, runs: int, worker: str = "") -> None:
        self.put((self.worker, "begin", task))

    @override
    def advance(self, done: int, total: int, detail: str, worker: str = "") -> None:
        now = time.monotonic()
        if now - self._sent >= SECONDS:
            self._sent = now
            self.put((self.worker, "advance", (done, total, detail)))

    @override
    def end(self, summary: str, worker: str = "") -> None:
        self.summary = summary
        self.put((self.worker, "end", summary))

    @override
    def note(self, text: str) -> None:
        self.put((self.worker, "note", text))

    @override
    def status(self, text: str) -> None:
        self.note(text)


def show_message(message: Message, runs: Sequence[Run], progress: Progress) -> bool:
    """Show a message of a Relay; return False for any other message."""
    worker, kind, content = message
    match kind:
        case "begin":
            number = runs.index(content.run) + 1 if content.run in runs else 0
            progress.begin(content, number, len(runs) if number else 0, worker)
        case "advance":
            done, total, detail = content
            progress.advance(done, total, detail, worker)
        case "end":
            progress.end(content, worker)
        case "note":
            progress.note(content)
        case _:
            return False
    return True
