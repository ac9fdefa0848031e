"""Session: does the tasks of a plan in one process; a task that fails stops no other run."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbbench.errors import UserError
from dbbench.evaluation.features import FeatureStore
from dbbench.files import write_text
from dbbench.generation.resume import Interval
from dbbench.interrupts import Stop
from dbbench.planning.cost import estimate_bytes
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.running.display.tracker import Kind
from dbbench.running.models import Models
from dbbench.running.work import do
from dbbench.storage.artifact import Damaged
from dbbench.storage.disk import storage_problem
from dbbench.storage.events import EventLog, Log, Meter
from dbbench.storage.leases import Lease, Leases, running
from dbbench.storage.record import Workspace
from dbbench.units import per_second
from dbbench.versions import versions


@dataclass(frozen=True)
class Failure:
    """A task that could not be done."""

    task: Task
    reason: str
    log: Path


@dataclass
class Outcome:
    """What a call of `execute` did."""

    done: int = 0
    """Tasks that were done, the score stage included."""
    others: int = 0
    """Tasks that other processes have done in the meantime."""
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Session:
    """The work of one call, or of one of its processes."""

    plan: Plan
    models: Models
    workspace: Workspace
    outcome: Outcome
    store: FeatureStore = field(default_factory=FeatureStore)
    together: int = 1
    tracker: Kind | None = None
    log: Log | None = None
    """Where events go in place of the output folder's own file."""
    retries: int = 1
    """How often a task that failed is tried again; not where the user has to change something."""
    interval: Interval = field(default_factory=Interval)
    """How often trainings keep their state."""
    leases: Leases | None = None
    """Those of the process; none: the session's own."""
    stop: Stop = field(default_factory=Stop)
    failed: dict[str, Failure] = field(default_factory=dict)
    put_off: set[str] = field(default_factory=set)
    """Keys of tasks that could not be done because what they read was damaged: plan again."""
    made: dict[str, str] = field(default_factory=dict)
    """Trainings that were done side by side with another: key -> its name."""
    _logs: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._logs = {path: path.stat().st_mtime_ns for path in self._log_folder.glob("*.log")}

    @property
    def events(self) -> Log:
        """What each task cost."""
        return self.log or EventLog(self.plan.out)

    def start(self, tasks: int) -> None:
        """Note with what the tasks are done."""
        self.events.write(stage="start", tasks=tasks, versions=versions(), **_machine(self.models))

    def work(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks, each after those it needs; one that fails stops those that need it.

        What another process is at is left to it, and waited for in the end.
        """
        runs = list(dict.fromkeys(task.run for task in tasks if task.run is not None))
        waiting = {task.key: task for task in tasks}
        said = ""
        with ExitStack() as stack:
            stack.enter_context(_notes(progress))
            leases = self.leases or stack.enter_context(Leases(self.plan.out))
            while waiting:
                before = len(waiting)
                for task in tuple(waiting.values()):
                    if any(key in waiting for key in task.needs):
                        continue
                    number = runs.index(task.run) + 1 if task.run is not None else 0
                    with leases.trying(task.key) as lease:
                        if lease is None:
                            continue
                        progress.begin(task, number, len(runs))
                        through = self._work_on(task, waiting, progress, leases, lease)
                    if through:
                        waiting.pop(task.key)
                    self.stop.check()
                if len(waiting) == before:
                    said = self._wait(waiting, progress, said)

    def open(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """Return those of the tasks that did not fail here, and need none that did."""
        lost = {*self.failed, *(failure.task.key for failure in self.outcome.failures)}
        found = []
        for task in tasks:
            if task.key in lost or lost.intersection(task.needs):
                lost.add(task.key)
            else:
                found.append(task)
        self.put_off.clear()
        return tuple(found)

    def _wait(self, waiting: Mapping[str, Task], progress: Progress, said: str) -> str:
        """Wait a moment for other processes; say what for, unless that was just said."""
        holders = running(self.plan.out)
        text = next((f"waiting for {k}: {holders[k]}" for k in waiting if k in holders), said)
        if text != said:
            progress.status(text)
        time.sleep(0.2)
        return text

    def _work_on(
        self,
        task: Task,
        waiting: Mapping[str, Task],
        progress: Progress,
        leases: Leases,
        lease: Lease,
    ) -> bool:
        """Do a task; return whether it is through, well or not."""
        if (other := self.made.get(task.key)) is not None:
            self.events.write(**_about(task), status="done", together_with=other)
            progress.end(f"side by side with {other}")
            self.outcome.done += 1
            return True
        if self.put_off.intersection(task.needs):
            self.put_off.add(task.key)
            progress.end("put off")
            return True
        if not self._is_needed(task, waiting.values()):
            progress.end("done by another process")
            self.outcome.others += 1
            return True
        tries = self.retries
        while True:
            meter = Meter()
            try:
                self._refuse_hopeless(task)
                if task.stage == "train":
                    rest = estimate_bytes(self.plan, waiting.values())
                    self.workspace.refuse_if_full(rest, self.plan.suite)
                with self.stop.in_hand():
                    count, unit = do(self, task, waiting.values(), progress, leases)
                break
            except Damaged as error:
                error.artifact.discard()
                self.put_off.add(task.key)
                progress.note(f"{error}; it is made again")
                progress.end("put off")
                return True
            except Exception as error:
                if lease.lost:
                    progress.end("taken over by another process")
                    return False
                problem = storage_problem(error, self.plan.out)
                if problem is not None:
                    raise problem from error
                if task.stage == "references" and isinstance(error, UserError):
                    raise
                if tries and not isinstance(error, UserError | _Blocked):
                    tries -= 1
                    again = f"{_reason(error)}; try {self.retries - tries} of {self.retries} more"
                    self.note_event(task, "retried", _reason(error))
                    progress.note(f"{task.stage} {task.name} failed: {again}")
                    continue
                failure = self._fail(task, error)
                self.note_event(task, "failed", failure.reason)
                progress.note(f"{task.stage} {task.name} failed: {failure.reason}")
                progress.end("failed")
                return True
        measured = meter.read(count, unit)
        self.events.write(**_about(task), status="done", **measured)
        progress.end(_summary(measured, unit))
        self.log_of(task).unlink(missing_ok=True)
        self.outcome.done += 1
        return True

    def _is_needed(self, task: Task, tasks: Iterable[Task]) -> bool:
        """Whether a task is still to do: another process may have done it, and what follows."""

        def is_done(task: Task) -> bool:
            return all(artifact.verify() == "done" for _, artifact in task.artifacts)

        if is_done(task):
            return False
        followers = [other for other in tasks if task.key in other.needs]
        return not followers or not all(map(is_done, followers))

    def _refuse_hopeless(self, task: Task) -> None:
        """Raise for a task that needs a failed one, or at which another process just failed."""
        for key in task.needs:
            if key in self.failed:
                raise _Blocked(self.failed[key])
        log = self.log_of(task)
        if log.is_file() and log.stat().st_mtime_ns != self._logs.get(log):
            reason = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
            failure = Failure(task, reason, log)
            self.outcome.failures.append(failure)
            raise _Blocked(failure)

    def _fail(self, task: Task, error: Exception) -> Failure:
        if isinstance(error, _Blocked):
            failure = Failure(task, error.cause.reason, error.cause.log)
        else:
            failure = Failure(task, _reason(error), self.log_of(task))
            write_text(failure.log, "".join(traceback.format_exception(error)))
            self._logs[failure.log] = failure.log.stat().st_mtime_ns
            self.outcome.failures.append(failure)
        self.failed[task.key] = failure
        return failure

    def note_event(self, task: Task, status: str, reason: str) -> None:
        """Write down that a task did not go as it should."""
        self.events.write(**_about(task), status=status, reason=reason)

    def log_of(self, task: Task) -> Path:
        """Return where it is written why a task failed."""
        name = task.name.replace("/", "-").replace(" ", "-")
        return self._log_folder / f"{name}.{task.stage}.log"

    @property
    def _log_folder(self) -> Path:
        return self.plan.out / "logs"


class _Blocked(Exception):
    """A task cannot be done because one before it failed."""

    def __init__(self, cause: Failure) -> None:
        super().__init__(cause.reason)
        self.cause = cause


def _reason(error: Exception) -> str:
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def _about(task: Task) -> dict[str, Any]:
    run = task.run
    about: dict[str, Any] = {"stage": task.stage, "name": task.name}
    if run is not None:
        about["run"] = {"method": run.method, "subject": run.subject, "seed": run.seed}
    return about


def _summary(measured: Mapping[str, Any], unit: str) -> str:
    if unit not in measured:
        return f"{measured['seconds']:.1f} s"
    rate = f"{per_second(measured[f'{unit}_per_second'])} {unit}/s"
    return f"{measured[unit]:,} {unit} in {measured['seconds']:.1f} s ({rate})"


@contextmanager
def _notes(progress: Progress) -> Iterator[None]:
    """While open, what dbbench's modules log stands above the bars."""

    class Handler(logging.Handler):
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


def _machine(models: Models) -> dict[str, Any]:
    import platform

    import torch

    gpu = torch.cuda.get_device_name(models.device) if models.device.startswith("cuda") else None
    return {
        "device": models.device,
        **({"gpu": gpu} if gpu else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
