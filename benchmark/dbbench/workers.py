"""Several runs at once on one device, each in a process of its own; the executor starts them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from dbbench.errors import UserError
from dbbench.executor import make_plan
from dbbench.models import Models
from dbbench.plan import Task
from dbbench.progress import Progress
from dbbench.session import Failure, Outcome, Session
from dbbench.subject import ImageSource
from dbbench.suite import Run, Suite
from dbbench.workspace import Workspace


def work_at_once(session: Session, tasks: Sequence[Task], jobs: int, progress: Progress) -> None:
    """Do the tasks that runs share here, and then `jobs` runs at a time.

    Raises UserError where something stops everything, or no process is left.
    """
    session.work([task for task in tasks if task.run is None], progress)
    rest = [task for task in tasks if task.run is not None]
    blocked = {task.run for task in rest if any(key in session.failed for key in task.needs)}
    session.work([task for task in rest if task.run in blocked], progress)
    runs = list(dict.fromkeys(task.run for task in rest if task.run and task.run not in blocked))
    if not runs:
        return
    session.models.release()
    plan = session.plan
    order = _Order(plan.suite, plan.out, plan.source, session.models.device, jobs)
    context: Any = multiprocessing.get_context("spawn")
    waiting, messages = context.Queue(), context.Queue()
    for item in (*runs, *(None,) * jobs):
        waiting.put(item)
    processes = {
        number: context.Process(target=_serve, args=(order, number, waiting, messages), daemon=True)
        for number in range(min(jobs, len(runs)))
    }
    for process in processes.values():
        process.start()
    try:
        _listen(session, tasks, runs, processes, messages, progress)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


@dataclass(frozen=True)
class _Order:
    """What a process needs to know."""

    suite: Suite
    out: Path
    source: ImageSource
    device: str
    jobs: int


def _listen(
    session: Session,
    tasks: Sequence[Task],
    runs: Sequence[Run],
    processes: Mapping[int, Any],
    messages: Any,
    progress: Progress,
) -> None:
    """Show what the processes report until all of them are through."""
    working: dict[int, Task | None] = dict.fromkeys(processes)
    finished = lost = 0
    while working:
        try:
            number, kind, content = messages.get(timeout=1)
        except Empty:
            for number in [n for n in working if processes[n].exitcode not in (None, 0)]:
                _lose(session, working.pop(number), processes[number].exitcode, progress)
                lost += 1
            continue
        if kind == "end":
            task, summary, seconds = content
            progress.begin(task, runs.index(task.run) + 1, len(runs))
            progress.end(summary, seconds / len(processes))
        elif kind == "begin":
            working[number] = content
        elif kind == "note":
            progress.note(content)
        elif kind == "outcome":
            session.outcome.done += content.done
            session.outcome.failures += content.failures
            finished += 1
        elif kind == "error":
            raise UserError(content)
        else:
            working.pop(number)
    if finished + lost < len(runs):
        raise UserError("no process is left for the remaining runs; try fewer --jobs-per-device")


def _lose(session: Session, task: Task | None, code: int, progress: Progress) -> None:
    """Note that a process has died with what it was at."""
    if task is None:
        raise UserError(f"a process could not start (exit code {code}); see what it printed")
    reason = f"its process ended with exit code {code}; try fewer --jobs-per-device"
    session.outcome.failures.append(Failure(task, reason, session.plan.out / "events.jsonl"))
    progress.note(f"{task.stage} {task.name} failed: {reason}")


def _serve(order: _Order, number: int, waiting: Any, messages: Any) -> None:
    """Do one run after another until there are no more."""
    import torch

    if order.device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // order.jobs))
    relay = _Relay(number, messages)
    try:
        models: Models | None = None
        while (run := waiting.get()) is not None:
            plan = make_plan(order.suite, order.out, order.source, [run], order.device)
            plan.identities.resolve_methods([run.method])
            models = models or Models(plan, order.device)
            models.plan.identities.methods.update(plan.identities.methods)
            outcome = Outcome()
            session = Session(plan, models, Workspace(order.out), outcome)
            session.work(plan.tasks([run]), relay)
            messages.put((number, "outcome", outcome))
        messages.put((number, "through", None))
    except UserError as error:
        messages.put((number, "error", str(error)))
    except KeyboardInterrupt:
        return


@dataclass
class _Relay:
    """Progress that is told to another process."""

    number: int
    messages: Any
    _task: Task | None = None
    _begun: float = field(default_factory=time.monotonic)

    def begin(self, task: Task, run: int, runs: int) -> None:
        """A task starts."""
        self._task, self._begun = task, time.monotonic()
        self.messages.put((self.number, "begin", task))

    def advance(self, done: int, total: int, detail: str) -> None:
        """Steps are not told: several processes have no one bar."""

    def end(self, summary: str, seconds: float | None = None) -> None:
        """The task has ended."""
        took = time.monotonic() - self._begun
        self.messages.put((self.number, "end", (self._task, summary, took)))

    def note(self, text: str) -> None:
        """Say something that stays."""
        self.messages.put((self.number, "note", text))

    def status(self, text: str) -> None:
        """Say what is going on."""
        self.note(text)
