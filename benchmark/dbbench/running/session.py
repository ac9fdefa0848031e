"""Session: the state of one process that works on the tasks of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

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
    """A task that failed, with the last line and the path of its log."""

    task: Task
    reason: str
    log: Path

    @override
    def __str__(self) -> str:
        return f"{self.task.key}: {self.reason} (see {self.log})"


@dataclass
class Outcome:
    """What a call of `execute` did."""

    done: int = 0
    """Tasks done by this call, including the score stage."""
    others: int = 0
    """Tasks done by other calls during this one."""
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Session:
    """The state of one call, or of one of its processes."""

    plan: Plan
    models: Models
    options: RunOptions
    leases: Leases
    store: FeatureStore = field(default_factory=FeatureStore)
    log: Log | None = None
    """Receives the events instead of the files in the output folder."""
    stop: Stop = field(default_factory=Stop)
    outcome: Outcome = field(default_factory=Outcome)
    failed: dict[str, Failure] = field(default_factory=dict)
    """Task key -> its failure, or that of a task it needs."""
    put_off: set[str] = field(default_factory=set)
    """Keys of tasks whose inputs were damaged; the next round of planning repeats them."""
    made: dict[str, str] = field(default_factory=dict)
    """Key of a training that was done together with another -> name of the other."""
    known_logs: dict[Path, int] = field(default_factory=dict)
    """Logs of failures before this call, with their times in ns."""

    def __post_init__(self) -> None:
        self.known_logs = {path: path.stat().st_mtime_ns for path in self._log_folder.glob("*.log")}

    @property
    def events(self) -> Log:
        """Where the time and memory of each task are recorded."""
        return self.log or EventLog(self.plan.out)

    @property
    def workspace(self) -> Workspace:
        """The output folder."""
        return Workspace(self.plan.out)

    def start(self, tasks: int) -> None:
        """Record the number of tasks, the package versions and the device."""
        import platform

        import torch

        device = self.models.device
        gpu = {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
        self.events.write(
            stage="start", tasks=tasks, versions=versions(), device=device, **gpu,
            threads=torch.get_num_threads(), python=platform.python_version(),
        )  # fmt: skip

    def open(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """Return the tasks that neither failed here nor need one that did."""
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
        """Record that a task failed or is repeated, and why."""
        self.events.write(**about(task), status=status, reason=reason)

    def log_of(self, task: Task) -> Path:
        """Return the file for the traceback of a failed task."""
        name = task.name.replace("/", "-").replace(" ", "-")
        return self._log_folder / f"{name}.{task.stage}.log"

    @property
    def _log_folder(self) -> Path:
        return self.plan.out / "logs"


def about(task: Task) -> dict[str, Any]:
    """Return how events name a task: its stage, its name and its run, if it has one."""
    run = {} if task.run is None else {"run": asdict(task.run)}
    return {"stage": task.stage, "name": task.name, **run}
