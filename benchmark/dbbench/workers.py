"""Several runs at once on one device, each in a process of its own; the executor starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from dbbench.errors import UserError
from dbbench.executor import make_plan
from dbbench.lease import Leases
from dbbench.models import Models
from dbbench.plan import Task
from dbbench.progress import Progress
from dbbench.relay import Relay, show_message
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
    order = _Order(
        plan.suite, plan.out, plan.source, session.models.device, jobs, session.retries,
        session.interval, session.tracker, plan.remote,
    )  # fmt: skip
    context: Any = multiprocessing.get_context("spawn")
    waiting, messages = context.Queue(), context.Queue()
    for item in (*runs, *(None,) * jobs):
        waiting.put(item)

    def begin(name: str, first: Run | None = None) -> Any:
        arguments = (order, name, waiting, messages, first)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        return process

    processes = {name: begin(name) for name in map(str, range(1, min(jobs, len(runs)) + 1))}
    try:
        _listen(session, tasks, runs, processes, begin, messages, progress)
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
    retries: int
    interval: Interval
    tracker: Kind | None
    remote: Remote | None


def _listen(
    session: Session,
    tasks: Sequence[Task],
    runs: Sequence[Run],
    processes: dict[str, Any],
    begin: Callable[[str, Run | None], Any],
    messages: Any,
    progress: Progress,
) -> None:
    """Show what the processes report until all of them are through.

    Where one dies, another takes its place and tries that run again, as often as the session says.
    """
    working: dict[str, Task | None] = dict.fromkeys(processes)
    deaths: Counter[Run] = Counter()
    finished = lost = 0
    while working:
        try:
            message = messages.get(timeout=1)
        except Empty:
            for name in [n for n in working if processes[n].exitcode not in (None, 0)]:
                task, code = working.pop(name), processes[name].exitcode
                if task is not None and task.run and deaths[task.run] < session.retries:
                    deaths[task.run] += 1
                    progress.note(f"{task.stage} {task.name}: its process ended with {code}; again")
                    processes[name], working[name] = begin(name, task.run), None
                    continue
                _lose(session, task, name, code, progress)
                lost += 1
            continue
        name, kind, content = message
        if kind == "begin":
            working[name] = content
        if show_message(message, runs, progress):
            continue
        if kind == "outcome":
            session.outcome.done += content.done
            session.outcome.others += content.others
            session.outcome.failures += content.failures
            finished += 1
        elif kind == "error":
            raise UserError(content)
        else:
            working.pop(name)
    if finished + lost < len(runs):
        raise UserError("no process is left for the remaining runs; try fewer --jobs-per-device")


def _lose(session: Session, task: Task | None, worker: str, code: int, progress: Progress) -> None:
    """Note that a process has died with what it was at."""
    if task is None:
        raise UserError(f"a process could not start (exit code {code}); see what it printed")
    reason = f"its process ended with exit code {code}; try fewer --jobs-per-device"
    session.outcome.failures.append(Failure(task, reason, session.plan.out / "events.jsonl"))
    progress.note(f"{task.stage} {task.name} failed: {reason}")
    progress.end("failed", worker)


def _serve(order: _Order, name: str, waiting: Any, messages: Any, first: Run | None) -> None:
    """Do one run after another, `first` before the others, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one hears it.
    import torch

    if order.device == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // order.jobs))
    relay = Relay(name, messages.put)
    _end_with_parent()
    try:
        with listening(terminal=False) as stop, Leases(order.out) as leases:
            models: Models | None = None
            while (run := first or waiting.get()) is not None:
                first = None
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
                messages.put((name, "outcome", session.outcome))
            messages.put((name, "through", None))
    except UserError as error:
        messages.put((name, "error", str(error)))
    except KeyboardInterrupt:
        return


def _end_with_parent() -> None:
    """Stop, as for SIGTERM, when the process that started this one is no more."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
