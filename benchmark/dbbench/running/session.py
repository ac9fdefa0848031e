"""Session: what one process knows while it works on the tasks of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbbench.evaluation.features import FeatureStore
from dbbench.interrupts import Stop
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.workspace import Workspace
from dbbench.storage.events import EventLog, Log
from dbbench.storage.leases import Leases
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
    options: RunOptions
    store: FeatureStore = field(default_factory=FeatureStore)
    log: Log | None = None
    """Where events go in place of the output folder's own file."""
    leases: Leases | None = None
    """Those of the process; none: the session's own."""
    stop: Stop = field(default_factory=Stop)
    failed: dict[str, Failure] = field(default_factory=dict)
    put_off: set[str] = field(default_factory=set)
    """Keys of tasks that could not be done because what they read was damaged: plan again."""
    made: dict[str, str] = field(default_factory=dict)
    """Trainings that were done side by side with another: key -> its name."""
    known_logs: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known_logs = {path: path.stat().st_mtime_ns for path in self._log_folder.glob("*.log")}

    @property
    def events(self) -> Log:
        """What each task cost."""
        return self.log or EventLog(self.plan.out)

    def start(self, tasks: int) -> None:
        """Note with what the tasks are done."""
        self.events.write(stage="start", tasks=tasks, versions=versions(), **_machine(self.models))

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

    def note_event(self, task: Task, status: str, reason: str) -> None:
        """Write down that a task did not go as it should."""
        self.events.write(**about(task), status=status, reason=reason)

    def log_of(self, task: Task) -> Path:
        """Return where it is written why a task failed."""
        name = task.name.replace("/", "-").replace(" ", "-")
        return self._log_folder / f"{name}.{task.stage}.log"

    @property
    def _log_folder(self) -> Path:
        return self.plan.out / "logs"


def about(task: Task) -> dict[str, Any]:
    """Return how events and logs name a task."""
    run = task.run
    about: dict[str, Any] = {"stage": task.stage, "name": task.name}
    if run is not None:
        about["run"] = {"method": run.method, "subject": run.subject, "seed": run.seed}
    return about


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
