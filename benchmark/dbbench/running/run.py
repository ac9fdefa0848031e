"""Executor: does what a plan leaves to do, in this process; a failed run stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from dbbench.data.dataset import ImageSource
from dbbench.errors import UserError
from dbbench.generation.resume import Interval
from dbbench.interrupts import stop_requests
from dbbench.planning.build import make_plan
from dbbench.planning.cost import estimate_bytes
from dbbench.planning.finished import finished_runs, scored, scored_again
from dbbench.running.display.progress import show
from dbbench.running.display.tracker import Kind
from dbbench.running.executors.local import Executor, Local
from dbbench.running.models import Models
from dbbench.running.scoring import Publish, score
from dbbench.running.session import Outcome, Session
from dbbench.running.sharing import take_over
from dbbench.running.workspace import Workspace
from dbbench.storage.artifact import Damaged
from dbbench.storage.disk import storage_errors
from dbbench.storage.events import Meter
from dbbench.storage.leases import Leases
from dbbench.storage.record import RECORD
from dbbench.storage.remote import Remote
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite

ROUNDS = 5
"""How often it is planned anew where files turn out to be damaged while they are used."""


def execute(
    suite: Suite,
    out: Path,
    source: ImageSource,
    runs: Sequence[Run],
    *,
    device: str,
    console: Console,
    publish: Publish,
    executor: Executor | None = None,
    together: int = 1,
    as_json: bool = False,
    others: Sequence[Path] = (),
    retries: int = 1,
    interval: Interval | None = None,
    remote: Remote | None = None,
    tracker: Kind | None = None,
) -> Outcome:
    """Do what is missing of these runs, then score all runs of the folder that are finished.

    The executor is this process where none is given. `together` subjects are trained side by side
    in one process where the method can do so. `as_json` makes the progress lines JSON. What the
    output folders `others` hold of it is taken from there. What fails is tried again `retries`
    times. Trainings keep their state every `interval`. Other calls may be at work in the same
    folder: no stage is done twice, and this call ends when all its runs are done, by whomever.
    With a `remote`, `out` is its mirror. A `tracker` gets the losses. `publish` writes the
    leaderboard and the page of the scored folder: `dbbench.reports.write_report`.

    Raises UserError for what stops everything (settings, references, weights, the disk); a run that
    fails by itself is reported in the outcome. Stopped passes through; whatever is complete by then
    stays.
    """

    def say(text: str) -> None:
        if not as_json:
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    workspace = Workspace(out)
    plan = make_plan(suite, out, source, runs, device, remote)
    plan.identities.resolve_methods(workspace.selection().join(runs).methods)
    with (
        stop_requests() as stop,
        _sent(remote),
        storage_errors(out),
        Leases(out) as leases,
        workspace.entered(leases, [suite.model_dump(mode="json"), device.split(":")[0]], say),
    ):
        workspace.refuse_other(suite)
        plan.identities.resolve_methods(workspace.selection().join(runs).methods)
        models = Models(plan, device)
        executor = executor or Local()
        tasks = plan.tasks(runs)
        while executor.identify(models, tasks, say):
            tasks = plan.tasks(runs)  # What was loaded may be another than was remembered.
        if take_over(plan, tasks, others, leases):
            tasks = plan.tasks(runs)
        workspace.refuse_if_full(estimate_bytes(plan, tasks), suite)
        with leases.hold(RECORD, say):
            workspace.enter(plan, workspace.selection().join(runs), device)
        if remote is not None:
            remote.send_files([RECORD])  # What is made from here on is found by it.
        session = Session(
            plan, models, workspace, Outcome(), together=together, retries=retries,
            interval=interval or Interval(), leases=leases, stop=stop, tracker=tracker,
        )  # fmt: skip
        for _ in range(ROUNDS):
            if tasks:
                session.start(len(tasks))
                with show(console, tasks, as_json=as_json) as progress:
                    executor.work(session, tasks, progress)
            damaged = _score(session, executor, publish, leases, say)
            tasks = session.open(plan.tasks(runs))
            if not tasks and not damaged:
                return session.outcome
        raise UserError(
            f"files in {out} are damaged again and again as soon as they are written; look after"
            " the disk, or choose another --out"
        )


def _score(
    session: Session,
    executor: Executor,
    publish: Publish,
    leases: Leases,
    say: Callable[[str], None],
) -> bool:
    """Score what is finished, unless another process just did; return whether that met damage."""
    plan, workspace = session.plan, session.workspace
    with leases.hold("score", say):
        selection = workspace.selection()
        plan.identities.resolve_methods(selection.methods)
        finished = finished_runs(plan, selection.runs(plan.suite))
        if not finished or scored(plan, finished):
            return False
        if reason := scored_again(plan, finished):
            say(reason)
        meter = Meter()
        try:
            count = score(plan, finished, publish, executor.map)
        except Damaged as error:
            error.artifact.discard()
            say(f"{error.artifact.path}: {error.problem}; it is made again")
            return True
        session.events.write(stage="score", status="done", **meter.read(count, "images"))
        session.outcome.done += 1
        return False


@contextmanager
def _sent(remote: Remote | None) -> Iterator[None]:
    """On leaving, however, send what belongs to the folder as a whole."""
    try:
        yield
    finally:
        if remote is not None:
            remote.send_files()
