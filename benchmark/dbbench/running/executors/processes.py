"""Several runs at once, on one device or several, in processes; the executor starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from dbbench.errors import UserError
from dbbench.files import write_text
from dbbench.interrupts import stop_requests
from dbbench.planning.build import make_plan
from dbbench.planning.request import Request
from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.running.executors.relay import Message, Relay, show_message
from dbbench.running.loop import work
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.session import Failure, Outcome, Session
from dbbench.running.workspace import Workspace
from dbbench.storage.leases import Leases
from dbbench.suites.runs import Run


def work_at_once(
    session: Session,
    tasks: Sequence[Task],
    jobs: int,
    devices: Sequence[str],
    progress: Progress,
) -> None:
    """Do references and their features here, and then `jobs` runs at a time on each device.

    Runs are handed out: processes that each went through all tasks, with leases alone, would each
    read every byte that the others made, to see that it is done, and each report every failure.
    Class images are made by the process that gets the first run in need of them. A process that
    dies is replaced, and its run tried again as often as the session says. Raises UserError where
    something stops everything.
    """
    needed = {key for task in tasks for key in task.needs}
    first: list[Task] = []
    rest: list[Task] = []
    for task in tasks:
        is_for_runs = task.run is not None or (task.stage == "prior" and task.key in needed)
        (rest if is_for_runs else first).append(task)
    work(session, first, progress)
    if not rest:
        return
    session.models.release()
    plan = session.plan
    order = _Order(
        Request(plan.suite, plan.out, plan.dataset, (), plan.remote),
        session.options,
        tuple(devices),
        jobs,
    )
    pool = _Pool(session, order, rest, progress)
    try:
        pool.work()
    finally:
        for worker in pool.workers:
            worker.process.terminate()
            worker.process.join()
    work(session, [task for task in rest if task.run in pool.blocked], progress)


def in_order(tasks: Sequence[Task]) -> list[Run]:
    """Return the runs of the tasks in an order in which processes seldom wait for each other.

    First one run for each set of class images that is to be made, then those that need none of
    them, then the others, which by then find them made.
    """
    missing = {task.key for task in tasks if task.stage == "prior"}
    needs: dict[Run, set[str]] = {}
    for task in tasks:
        if task.run is not None:
            needs.setdefault(task.run, set()).update(missing.intersection(task.needs))
    first = {key: run for run, keys in reversed(needs.items()) for key in keys}.values()
    return sorted(needs, key=lambda run: 0 if run in first else 1 if not needs[run] else 2)


@dataclass(frozen=True)
class _Order:
    """What a process needs to know."""

    request: Request
    """Without runs: they are handed out."""
    options: RunOptions
    devices: tuple[str, ...]
    jobs: int
    """Processes on each device."""


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
    progress: Progress
    workers: list[_Worker] = field(default_factory=list)
    blocked: set[Run] = field(default_factory=set)
    """Runs that need what failed."""
    _waiting: deque[Run] = field(default_factory=deque)
    _deaths: Counter[Run] = field(default_factory=Counter)
    _heard: bool = False
    """Whether any of them ever said something."""

    def __post_init__(self) -> None:
        self.runs = in_order(self.tasks)
        self._needs: dict[Run | None, set[str]] = {}
        for task in self.tasks:
            self._needs.setdefault(task.run, set()).update(task.needs)

    def work(self) -> None:
        """Hand out the runs, and show what is reported, until all are through."""
        self._waiting.extend(self.runs)
        processes = self.order.jobs * len(self.order.devices)
        for number in range(1, min(processes, len(self.runs)) + 1):
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
        worker.run, worker.task = self._pop(), None
        with suppress(OSError):  # One that has just died is noticed when it is listened to.
            worker.pipe.send(worker.run)

    def _pop(self) -> Run | None:
        """Return the next run that can be done; there may be none."""
        while self._waiting:
            run = self._waiting.popleft()
            if self._needs[run].isdisjoint(self.session.failed):
                return run
            self.blocked.add(run)
        return None

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
        for failure in content.failures:
            if failure.task.run is None:  # Two that wait for the same class images both say so.
                if failure.task.key in self.session.failed:
                    continue
                self.session.failed[failure.task.key] = failure
            outcome.failures.append(failure)
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
        again = self._deaths[run] <= session.options.retries
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

    from dbbench.generation.memory import take_share

    device = order.devices[(int(name) - 1) % len(order.devices)]
    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // order.jobs))
    take_share(device, order.jobs)
    lock = threading.Lock()

    def put(message: Message) -> None:
        with lock:  # Threads say things too.
            pipe.send(message)

    relay = Relay(name, put)
    _end_with_parent()
    try:
        with stop_requests(terminal=False) as stop, Leases(order.request.out) as leases:
            models: Models | None = None
            while (run := pipe.recv()) is not None:
                plan = make_plan(replace(order.request, runs=(run,)), device)
                plan.identities.resolve_methods([run.method])
                models = models or Models(plan, device)
                models.plan.identities.methods.update(plan.identities.methods)
                session = Session(
                    plan, models, Workspace(plan.out), Outcome(), order.options,
                    leases=leases, stop=stop,
                )  # fmt: skip
                work(session, plan.tasks([run]), relay)
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
