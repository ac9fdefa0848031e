"""Several runs at once on one device, each in a process of its own; the executor starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dbbench.artifact import write_text
from dbbench.errors import UserError
from dbbench.executor import make_plan
from dbbench.lease import Leases
from dbbench.models import Models
from dbbench.plan import Task
from dbbench.progress import Progress
from dbbench.relay import Message, Relay, show_message
from dbbench.remote import Remote
from dbbench.saves import Interval
from dbbench.session import Failure, Outcome, Session
from dbbench.stop import listening
from dbbench.subject import ImageSource
from dbbench.suite import Run, Suite
from dbbench.tracker import Kind
from dbbench.workspace import Workspace


def work_at_once(session: Session, tasks: Sequence[Task], jobs: int, progress: Progress) -> None:
    """Do the tasks that runs share here, and then `jobs` runs at a time.

    A process that dies is replaced, and its run tried again as often as the session says. Raises
    UserError where something stops everything.
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
    order = _Order(
        plan.suite, plan.out, plan.source, session.models.device, jobs, session.retries,
        session.interval, session.tracker, plan.remote,
    )  # fmt: skip
    pool = _Pool(session, order, rest, runs, progress)
    try:
        pool.work(jobs)
    finally:
        for worker in pool.workers:
            worker.process.terminate()
            worker.process.join()


@dataclass(frozen=True)
class _Order:
    """What a process needs to know."""

    suite: Suite
    out: Path
    source: ImageSource
    device: str
    jobs: int
    retries: int
    interval: Interval
    tracker: Kind | None
    remote: Remote | None


@dataclass
class _Worker:
    """A process, and the pipe that is its alone: one that is killed keeps no other waiting."""

    name: str
    process: Any
    pipe: Connection
    run: Run | None = None
    task: Task | None = None
    """What it is at."""


@dataclass
class _Pool:
    """The processes that are at work, and the runs that nobody is at yet."""

    session: Session
    order: _Order
    tasks: Sequence[Task]
    runs: Sequence[Run]
    progress: Progress
    workers: list[_Worker] = field(default_factory=list)
    _waiting: deque[Run] = field(default_factory=deque)
    _deaths: Counter[Run] = field(default_factory=Counter)
    _heard: bool = False
    """Whether any of them ever said something."""

    def work(self, jobs: int) -> None:
        """Hand out the runs, and show what is reported, until all are through."""
        self._waiting.extend(self.runs)
        for number in range(1, min(jobs, len(self.runs)) + 1):
            self._begin(str(number))
        while self.workers:
            ready = wait([worker.pipe for worker in self.workers])
            for worker in [w for w in self.workers if w.pipe in ready]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    self._end(worker)
                else:
                    self._hear(worker, message)

    def _begin(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.order, name, theirs), daemon=True)
        process.start()
        theirs.close()  # So that its end is seen here.
        self.workers.append(worker := _Worker(name, process, ours))
        self._hand_out(worker)

    def _hand_out(self, worker: _Worker) -> None:
        worker.run, worker.task = (self._waiting.popleft() if self._waiting else None), None
        with suppress(OSError):  # One that has just died is noticed when it is listened to.
            worker.pipe.send(worker.run)

    def _hear(self, worker: _Worker, message: Message) -> None:
        self._heard = True
        _, kind, content = message
        if kind in {"begin", "end"}:
            worker.task = content if kind == "begin" else None
        if show_message(message, self.runs, self.progress):
            return
        if kind == "error":
            raise UserError(content)
        outcome = self.session.outcome
        outcome.done += content.done
        outcome.others += content.others
        outcome.failures += content.failures
        self._hand_out(worker)

    def _end(self, worker: _Worker) -> None:
        """A process has ended: as it should, or in the middle of a run."""
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        if worker.run is not None:
            self._lose(worker, worker.run)
        if self._waiting:
            self._begin(worker.name)

    def _lose(self, worker: _Worker, run: Run) -> None:
        """Give a run that a process died of to another, or note that it failed."""
        session, code = self.session, worker.process.exitcode
        self._deaths[run] += 1
        again = self._deaths[run] <= session.retries
        if not self._heard and not again:
            raise UserError(f"a process could not start (exit code {code}); see what it printed")
        task = worker.task or self._next(run)
        reason = f"its process ended with exit code {code}"
        if again:
            session.note_event(task, "retried", reason)
            self.progress.note(f"{task.stage} {task.name}: {reason}; again")
            self._waiting.appendleft(run)
            return
        reason += "; try fewer --jobs-per-device"
        session.note_event(task, "failed", reason)
        write_text(session.log_of(task), reason + "\n")
        session.outcome.failures.append(Failure(task, reason, session.log_of(task)))
        self.progress.note(f"{task.stage} {task.name} failed: {reason}")
        if worker.task is None:
            self.progress.begin(task, 0, 0, worker.name)
        self.progress.end("failed", worker.name)

    def _next(self, run: Run) -> Task:
        """Return what comes next of a run, or last where all of it is done."""
        tasks = [task for task in self.tasks if task.run == run]
        whole = [all(artifact.complete for _, artifact in task.artifacts) for task in tasks]
        return next((task for task, done in zip(tasks, whole, strict=True) if not done), tasks[-1])


def _serve(order: _Order, name: str, pipe: Connection) -> None:
    """Do one run after another, as they are handed out, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one hears it.
    import torch

    if order.device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // order.jobs))
    lock = threading.Lock()

    def put(message: Message) -> None:
        with lock:  # Threads say things too.
            pipe.send(message)

    relay = Relay(name, put)
    _end_with_parent()
    try:
        with listening(terminal=False) as stop, Leases(order.out) as leases:
            models: Models | None = None
            while (run := pipe.recv()) is not None:
                plan = make_plan(
                    order.suite, order.out, order.source, [run], order.device, order.remote
                )
                plan.identities.resolve_methods([run.method])
                models = models or Models(plan, order.device)
                models.plan.identities.methods.update(plan.identities.methods)
                session = Session(
                    plan, models, Workspace(order.out), Outcome(), retries=order.retries,
                    interval=order.interval, leases=leases, stop=stop, tracker=order.tracker,
                )  # fmt: skip
                session.work(plan.tasks([run]), relay)
                put((name, "outcome", session.outcome))
    except UserError as error:
        put((name, "error", str(error)))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return


def _end_with_parent() -> None:
    """Stop, as for SIGTERM, when the process that started this one is no more."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
