"""Executor: does what a plan leaves to do, in this process; a failed run stops no other."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

from rich.console import Console

from dbbench.errors import UserError
from dbbench.events import EVENTS, EventLog, Meter
from dbbench.identity import Identities
from dbbench.models import Models
from dbbench.plan import Plan, Task
from dbbench.plugin import add_method_file, find, load_metric
from dbbench.progress import Progress, show
from dbbench.scoring import finished_runs, score, scored
from dbbench.session import Outcome, Session
from dbbench.sharing import take_over
from dbbench.subject import ImageSource, load_subjects
from dbbench.suite import Run, Suite
from dbbench.variant import variant
from dbbench.workspace import Workspace, estimate_bytes, storage_errors

Item = TypeVar("Item")
Part = TypeVar("Part")


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM or SIGHUP."""


def make_plan(
    suite: Suite, out: Path, source: ImageSource, runs: Sequence[Run], device: str
) -> Plan:
    """Return the plan with all that earlier calls in `out` found out; loads no network."""
    for reference in suite.method_files.values():
        add_method_file(reference)
    _check_names(suite, runs)
    workspace = Workspace(out)
    workspace.refuse_other(suite)
    identities = Identities(suite, device)
    workspace.recall(identities, workspace.selection().join(runs).methods)
    subjects = {subject.name: subject for subject in load_subjects()}
    return Plan(suite, out, subjects, source, identities)


def execute(
    suite: Suite,
    out: Path,
    source: ImageSource,
    runs: Sequence[Run],
    *,
    device: str,
    console: Console,
    executor: Executor | None = None,
    together: int = 1,
    as_json: bool = False,
    others: Sequence[Path] = (),
) -> Outcome:
    """Do what is missing of these runs, then score all runs of the folder that are finished.

    The executor is this process where none is given. `together` subjects are trained side by side
    in one process where the method can do so. `as_json` makes the progress lines JSON. What the
    output folders `others` hold of it is taken from there.

    Raises UserError for what stops everything (settings, references, weights, the disk); a run that
    fails by itself is reported in the outcome. KeyboardInterrupt and Terminated pass through;
    whatever is complete by then stays.
    """

    def say(text: str) -> None:
        if not as_json:
            console.print(text, style="dim")

    workspace = Workspace(out)
    plan = make_plan(suite, out, source, runs, device)
    plan.identities.resolve_methods(workspace.selection().join(runs).methods)
    with _terminations(), workspace.locked(), storage_errors(out):
        workspace.refuse_other(suite)
        selection = workspace.selection().join(runs)
        plan.identities.resolve_methods(selection.methods)
        models = Models(plan, device)
        executor = executor or Local()
        tasks = plan.tasks(runs)
        while executor.identify(models, tasks, say):
            tasks = plan.tasks(runs)  # What was loaded may be another than was remembered.
        if take_over(plan, tasks, others):
            tasks = plan.tasks(runs)
        workspace.refuse_if_full(estimate_bytes(plan, tasks), suite)
        workspace.write(plan, selection, device)
        outcome = Outcome()
        session = Session(plan, models, workspace, outcome, together=together)
        if tasks:
            session.start(len(tasks))
            with show(console, tasks, as_json=as_json) as progress:
                executor.work(session, tasks, progress)
        finished = finished_runs(plan, selection.runs(suite))
        if finished and not scored(plan, finished):
            meter = Meter()
            count = score(plan, finished, executor.map)
            EventLog(out / EVENTS).write(
                stage="score", status="done", **meter.read(count, "images")
            )
            outcome.done += 1
        return outcome


class Executor(Protocol):
    """Who does the tasks: this process, several on one device, or a cluster."""

    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        """Find out which networks the tasks need, as far as is not known; return whether any."""

    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks, each after those it needs; enter what came of them into the session."""

    def map(
        self, plan: Plan, function: Callable[[Plan, Item], Part], items: Iterable[Item]
    ) -> Iterator[Part]:
        """Yield function(plan, item) for each item, in order."""


@dataclass(frozen=True)
class Local:
    """This machine: one process, or one for each of `jobs` runs at once."""

    jobs: int = 1

    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        """Load the networks that are missing."""
        return models.load_for(tasks, say)

    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks in turn, or those of several runs at once."""
        if self.jobs == 1:
            session.work(tasks, progress)
            return
        from dbbench.workers import work_at_once

        work_at_once(session, tasks, self.jobs, progress)

    def map(
        self, plan: Plan, function: Callable[[Plan, Item], Part], items: Iterable[Item]
    ) -> Iterator[Part]:
        """Apply the function here."""
        return (function(plan, item) for item in items)


def _check_names(suite: Suite, runs: Sequence[Run]) -> None:
    """Raise UserError for a plugin that does not exist and an encoder that a metric lacks."""
    for method in [*suite.methods, *(run.method for run in runs)]:
        find("methods", variant(suite, method).plugin)
    for reference in suite.encoders.values():
        find("encoders", reference.partition(":")[0])
    for name in suite.metrics:
        metric = load_metric(name)
        if metric.compares == "distances":
            raise UserError(
                f"metric {name} is not scored by dbbench run; leave it out, and score the finished"
                f" run: dbbench score {suite.name} --metrics {name}"
            )
        role = metric.role
        if role not in suite.encoders:
            raise UserError(
                f'metric {name} needs an encoder in the role "{role}" and suite "{suite.name}" has'
                f" none; add one: --set encoders.{role}=..."
            )


@contextmanager
def _terminations() -> Iterator[None]:
    """While open, SIGTERM and SIGHUP unwind the stack like Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    wanted = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    before = {number: signal.signal(number, stop) for number in wanted if number is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
