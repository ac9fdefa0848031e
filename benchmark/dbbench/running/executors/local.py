"""The local executor: this process, or several on each device of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from typing_extensions import override

from dbbench.device import devices_of
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.running.loop import work
from dbbench.running.models import Models
from dbbench.running.session import Session

Item = TypeVar("Item")
Part = TypeVar("Part")


class Executor(Protocol):
    """Does the tasks: in this process, in several processes, or on a cluster."""

    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        """Load the networks whose fingerprints are needed and unknown; return whether any was."""

    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks, each after those it needs; record the results in the session."""

    def map(
        self, plan: Plan, function: Callable[[Plan, Item], Part], items: Iterable[Item]
    ) -> Iterator[Part]:
        """Yield function(plan, item) for each item, in order."""


@dataclass(frozen=True)
class Local(Executor):
    """This machine: `jobs` processes on each device, or only this process for one in all."""

    jobs: int = 1

    @override
    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        return models.load_for(tasks, say)

    @override
    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks one by one, or several runs in parallel.

        With `together`, everything is done in this process and on one device.
        """
        devices = devices_of(session.models.device)
        if self.jobs == len(devices) == 1 or session.options.together > 1:
            work(session, tasks, progress)
            return
        from dbbench.running.executors.processes import work_in_parallel

        work_in_parallel(session, tasks, self.jobs, devices, progress)

    @override
    def map(
        self, plan: Plan, function: Callable[[Plan, Item], Part], items: Iterable[Item]
    ) -> Iterator[Part]:
        return (function(plan, item) for item in items)
