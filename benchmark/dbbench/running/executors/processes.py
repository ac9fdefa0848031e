"""Several runs in parallel, each in a process of its own, on one device or several."""

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
from dbbench.running.session import Failure, Session
from dbbench.storage.leases import Leases
from dbbench.suites.runs import Run


def work_in_parallel(
    session: Session,
    tasks: Sequence[Task],
    jobs: int,
    devices: Sequence[str],
    progress: Progress,
) -> None:
    """Do references and their features here, then `jobs` runs at a time on each device.

    This process assigns the runs. If each process went through all tasks and used only leases, each
    would verify every byte that the others wrote, and each would report every failure. The process
    that gets the first run with a class noun samples its class images. A process that dies is
    replaced, and its run is repeated up to `retries` times. Raises UserError for a problem that
    stops all runs.
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
    pool = _Pool(session, rest, jobs, devices, progress)
    try:
        pool.work()
    finally:
        for worker in pool.workers:
            worker.process.terminate()
            worker.process.join()
    work(session, [task for task in rest if task.run in pool.blocked], progress)


def in_order(tasks: Sequence[Task]) -> list[Run]:
    """Return the runs of the tasks in an order in which processes rarely wait for each other.

    First one run for each set of missing class images, then the runs that need no missing ones,
    then the others; their class images are then usually complete.
    """
    missing = {task.key for task in tasks if task.stage == "prior"}
    needs: dict[Run, set[str]] = {}
    for task in tasks:
        if task.run is not None:
            needs.setdefault(task.run, set()).update(missing.intersection(task.needs))
    first = {key: run for run, keys in reversed(needs.items()) for key in keys}.values()
    return sorted(needs, key=lambda run: 0 if run in first else 1 if not needs[run] else 2)


@dataclass
class _Worker:
    """A process with its own pipe, so that a killed process blocks no other."""

    name: str
    process: Any
    pipe: Connection
    run: Run | None = None
    task: Task | None = None
    """What it is doing."""


@dataclass
class _Pool:
    """The running processes, and the runs that are not assigned yet."""

    session: Session
    tasks: Sequence[Task]
    jobs: int
    devices: Sequence[str]
    progress: Progress
    workers: list[_Worker] = field(default_factory=list)
    blocked: set[Run] = field(default_factory=set)
    """Runs that need a failed task."""
    _waiting: deque[Run] = field(default_factory=deque)
    _deaths: Counter[Run] = field(default_factory=Counter)
    _started: bool = False
    """Whether any process has sent a message."""

    def __post_init__(self) -> None:
        self.runs = in_order(self.tasks)
        self._needs: dict[Run | None, set[str]] = {}
        for task in self.tasks:
            self._needs.setdefault(task.run, set()).update(task.needs)

    def work(self) -> None:
        """Assign the runs and show the reported progress, until all processes have ended."""
        self._waiting.extend(self.runs)
        processes = self.jobs * len(self.devices)
        for number in range(1, min(processes, len(self.runs)) + 1):
            self._start(str(number))
        while self.workers:
            ready = wait([worker.pipe for worker in self.workers])
            for worker in [w for w in self.workers if w.pipe in ready]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    self._end(worker)
                else:
                    self._receive(worker, message)

    def _start(self, name: str) -> None:
        plan, device = self.session.plan, self.devices[(int(name) - 1) % len(self.devices)]
        request = Request(plan.suite, plan.out, plan.dataset, (), plan.remote)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        given = (request, self.session.options, device, self.jobs, name, theirs)
        process = context.Process(target=_serve, args=given, daemon=True)
        process.start()
        theirs.close()  # Else the end of the process would not close the pipe.
        self.workers.append(worker := _Worker(name, process, ours))
        self._assign(worker)

    def _assign(self, worker: _Worker) -> None:
        """Give the worker the next run that is not blocked, or None if there is none."""
        worker.run = worker.task = None
        while self._waiting and worker.run is None:
            run = self._waiting.popleft()
            if self._needs[run].isdisjoint(self.session.failed):
                worker.run = run
            else:
                self.blocked.add(run)
        with suppress(OSError):  # If it has just died, reading from its pipe will show it.
            worker.pipe.send(worker.run)

    def _receive(self, worker: _Worker, message: Message) -> None:
        self._started = True
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
            if failure.task.run is None:  # Two runs may report the same failed class images.
                if failure.task.key in self.session.failed:
                    continue
                self.session.failed[failure.task.key] = failure
            outcome.failures.append(failure)
        self._assign(worker)

    def _end(self, worker: _Worker) -> None:
        """Handle the end of a process, which may be in the middle of a run."""
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        if worker.run is not None:
            self._lose(worker, worker.run)
        if self._waiting:
            self._start(worker.name)

    def _lose(self, worker: _Worker, run: Run) -> None:
        """Repeat a run whose process died, or record that it failed."""
        session, code = self.session, worker.process.exitcode
        self._deaths[run] += 1
        again = self._deaths[run] <= session.options.retries
        if not self._started and not again:
            raise UserError(f"a process could not start (exit code {code}); read its output above")
        task = worker.task or self._next(run)
        reason = f"its process ended with exit code {code}"
        if again:
            session.note_event(task, "retried", reason)
            self.progress.note(f"{task.key}: {reason}; it is repeated")
            self._waiting.appendleft(run)
            return
        reason += "; try fewer --jobs-per-device"
        session.note_event(task, "failed", reason)
        write_text(session.log_of(task), reason + "\n")
        session.outcome.failures.append(Failure(task, reason, session.log_of(task)))
        self.progress.note(f"{task.key} failed: {reason}")
        if worker.task is None:
            self.progress.begin(task, 0, 0, worker.name)
        self.progress.end("failed", worker.name)

    def _next(self, run: Run) -> Task:
        """Return the first task of a run that is not complete, else its last one."""
        tasks = [task for task in self.tasks if task.run == run]
        return next((task for task in tasks if not task.complete), tasks[-1])


def _serve(
    request: Request, options: RunOptions, device: str, jobs: int, name: str, pipe: Connection
) -> None:
    """Do the runs that come through the pipe one by one, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent process handles it.
    import torch

    from dbbench.generation.memory import take_share

    if device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    take_share(device, jobs)
    lock = threading.Lock()

    def put(message: Message) -> None:
        with lock:  # Several threads send messages.
            pipe.send(message)

    relay = Relay(name, put)
    _end_with_parent()
    try:
        with stop_requests(terminal=False) as stop, Leases(request.out) as leases:
            models: Models | None = None
            while (run := pipe.recv()) is not None:
                plan = make_plan(replace(request, runs=(run,)), device)
                plan.identities.resolve_methods([run.method])
                models = models or Models(plan, device)
                models.plan.identities.methods.update(plan.identities.methods)
                session = Session(plan, models, options, leases, stop=stop)
                work(session, plan.tasks([run]), relay)
                put((name, "outcome", session.outcome))
    except UserError as error:
        put((name, "error", str(error)))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return


def _end_with_parent() -> None:
    """Stop, as for SIGTERM, when the parent process ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
