"""The loop of one process: it does its tasks one by one; a failed task stops no other run."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from typing_extensions import override

from dbbench.errors import UserError
from dbbench.files import write_text
from dbbench.planning.cost import estimate_bytes
from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.running.display.tracker import tracked
from dbbench.running.session import Failure, Session, about
from dbbench.running.work import do
from dbbench.storage.artifact import Damaged
from dbbench.storage.disk import storage_problem
from dbbench.storage.events import Meter
from dbbench.storage.leases import Lease, running
from dbbench.units import per_second


def work(session: Session, tasks: Sequence[Task], progress: Progress) -> None:
    """Do the tasks, each after those it needs; a failed task blocks only those that need it.

    Tasks that another process is doing are left to it; the loop waits for them at the end.
    """
    runs = list(dict.fromkeys(task.run for task in tasks if task.run is not None))
    waiting = {task.key: task for task in tasks}
    shown = ""
    with _log_to(progress):
        while waiting:
            before = len(waiting)
            for task in tuple(waiting.values()):
                if any(key in waiting for key in task.needs):
                    continue
                number = runs.index(task.run) + 1 if task.run is not None else 0
                with session.leases.trying(task.key) as lease:
                    if lease is None:
                        continue
                    progress.begin(task, number, len(runs))
                    finished = _work_on(session, task, waiting, progress, lease)
                if finished:
                    waiting.pop(task.key)
                session.stop.check()
            if len(waiting) == before:
                holders = running(session.plan.out)
                text = next((f"waiting for {k}: {holders[k]}" for k in waiting if k in holders), "")
                if text not in {"", shown}:
                    progress.status(shown := text)
                time.sleep(0.2)


def _work_on(
    session: Session, task: Task, waiting: Mapping[str, Task], progress: Progress, lease: Lease
) -> bool:
    """Do a task; return False if another process has taken it over, else True."""
    if (other := session.made.get(task.key)) is not None:
        session.events.write(**about(task), status="done", together_with=other)
        progress.end(f"trained together with {other}")
        session.outcome.done += 1
        return True
    if session.put_off.intersection(task.needs):
        session.put_off.add(task.key)
        progress.end("put off")
        return True
    if not _is_needed(task, waiting.values()):
        progress.end("done by another process")
        session.outcome.others += 1
        return True
    tries = session.options.retries
    while True:
        meter = Meter()
        try:
            _refuse_blocked(session, task)
            if task.stage == "train":
                rest = estimate_bytes(session.plan, waiting.values())
                session.workspace.refuse_if_full(rest, session.plan.suite)
            tracker = tracked(session.options.tracker, task, session.plan.out)
            with session.stop.working(), tracker as record:
                count, unit = do(session, task, waiting.values(), progress, record)
            break
        except Damaged as error:
            error.artifact.discard()
            session.put_off.add(task.key)
            progress.note(f"{error.artifact.path}: {error.problem}; it will be made again")
            progress.end("put off")
            return True
        except Exception as error:
            if lease.lost:
                progress.end("taken over by another process")
                return False
            problem = storage_problem(error, session.plan.out)
            if problem is not None:
                raise problem from error
            if task.stage == "references" and isinstance(error, UserError):
                raise
            if tries and not isinstance(error, UserError | _Blocked):
                tries -= 1
                retry = f"retry {session.options.retries - tries} of {session.options.retries}"
                session.note_event(task, "retried", _reason(error))
                progress.note(f"{task.key} failed: {_reason(error)}; {retry}")
                continue
            failure = _fail(session, task, error)
            session.note_event(task, "failed", failure.reason)
            progress.note(f"{task.key} failed: {failure.reason}")
            progress.end("failed")
            return True
    measured = meter.read(count, unit)
    session.events.write(**about(task), status="done", **measured)
    progress.end(_summary(measured, unit))
    session.log_of(task).unlink(missing_ok=True)
    session.outcome.done += 1
    return True


def _is_needed(task: Task, tasks: Iterable[Task]) -> bool:
    """Return False if other processes have done the task, or everything that needs it."""
    followers = [other for other in tasks if task.key in other.needs]
    return not task.verified and not (followers and all(each.verified for each in followers))


def _refuse_blocked(session: Session, task: Task) -> None:
    """Raise _Blocked if a needed task failed, or if this one has just failed in another process."""
    for key in task.needs:
        if key in session.failed:
            raise _Blocked(session.failed[key])
    log = session.log_of(task)
    if log.is_file() and log.stat().st_mtime_ns != session.known_logs.get(log):
        reason = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        failure = Failure(task, reason, log)
        session.outcome.failures.append(failure)
        raise _Blocked(failure)


def _fail(session: Session, task: Task, error: Exception) -> Failure:
    if isinstance(error, _Blocked):
        failure = Failure(task, error.cause.reason, error.cause.log)
    else:
        failure = Failure(task, _reason(error), session.log_of(task))
        write_text(failure.log, "".join(traceback.format_exception(error)))
        session.known_logs[failure.log] = failure.log.stat().st_mtime_ns
        session.outcome.failures.append(failure)
    session.failed[task.key] = failure
    return failure


class _Blocked(Exception):
    """A task cannot be done because another attempt or a needed task failed."""

    def __init__(self, cause: Failure) -> None:
        super().__init__(cause.reason)
        self.cause = cause


def _reason(error: Exception) -> str:
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from dbbench.generation.memory import LESS, is_out_of_memory

        if is_out_of_memory(error):
            return f"out of memory; {LESS}, or run fewer at once (--jobs-per-device)"
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def _summary(measured: Mapping[str, Any], unit: str) -> str:
    if unit not in measured:
        return f"{measured['seconds']:.1f} s"
    rate = f"{per_second(measured[f'{unit}_per_second'])} {unit}/s"
    return f"{measured[unit]:,} {unit} in {measured['seconds']:.1f} s ({rate})"


@contextmanager
def _log_to(progress: Progress) -> Iterator[None]:
    """While open, show the log messages of dbbench's modules as notes."""

    class Handler(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            progress.note(record.getMessage())

    log, handler = logging.getLogger("dbbench"), Handler(logging.INFO)
    level, propagates = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates
