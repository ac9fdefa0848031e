"""Executor: does what a plan leaves to do, in this process; a failed run stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from dbbench.errors import UserError
from dbbench.interrupts import stop_requests
from dbbench.planning.build import make_plan
from dbbench.planning.cost import estimate_bytes
from dbbench.planning.finished import finished_runs, scored, scored_again
from dbbench.planning.request import Request
from dbbench.running.display.progress import show
from dbbench.running.executors.local import Executor, Local
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.scoring import Publish, score
from dbbench.running.session import Outcome, Session
from dbbench.running.sharing import take_over
from dbbench.running.workspace import Workspace
from dbbench.storage.artifact import Damaged
from dbbench.storage.disk import RECORD, storage_errors
from dbbench.storage.events import Meter
from dbbench.storage.leases import Leases
from dbbench.storage.remote import Remote

ROUNDS = 5
"""How often it is planned anew where files turn out to be damaged while they are used."""


def execute(
    request: Request,
    *,
    options: RunOptions,
    console: Console,
    publish: Publish,
    executor: Executor | None = None,
    others: Sequence[Path] = (),
) -> Outcome:
    """Do what is missing of a request, then score all runs of the folder that are finished.

    The executor is this process where none is given. What the output folders `others` hold of it
    is taken from there. Other calls may be at work in the same folder: no stage is done twice, and
    this call ends when all its runs are done, by whomever. `publish` writes the leaderboard and the
    page of the scored folder: `dbbench.reports.write_report`.

    Raises UserError for what stops everything (settings, references, weights, the disk); a run that
    fails by itself is reported in the outcome. Stopped passes through; whatever is complete by then
    stays.
    """

    def say(text: str) -> None:
        if not options.json:
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    suite, out, runs = request.suite, request.out, request.runs
    device, remote = options.device, request.remote
    workspace = Workspace(out)
    dataset = request.dataset
    plan = make_plan(request, device)
    plan.identities.resolve_methods(workspace.selection().join(runs, dataset).methods)
    with (
        stop_requests() as stop,
        _sent(remote),
        storage_errors(out),
        Leases(out) as leases,
        workspace.entered(leases, [suite.model_dump(mode="json"), device.split(":")[0]], say),
    ):
        workspace.refuse_other(suite)
        plan.identities.resolve_methods(workspace.selection().join(runs, dataset).methods)
        models = Models(plan, device)
        executor = executor or Local()
        tasks = plan.tasks(runs)
        while executor.identify(models, tasks, say):
            tasks = plan.tasks(runs)  # What was loaded may be another than was remembered.
        if take_over(plan, tasks, others, leases):
            tasks = plan.tasks(runs)
        workspace.refuse_if_full(estimate_bytes(plan, tasks), suite)
        with leases.hold(RECORD, say):
            workspace.enter(plan, workspace.selection().join(runs, dataset), device)
        if remote is not None:
            remote.send_files([RECORD])  # What is made from here on is found by it.
        session = Session(plan, models, workspace, Outcome(), options, leases=leases, stop=stop)
        for _ in range(ROUNDS):
            if tasks:
                session.start(len(tasks))
                with show(console, tasks, as_json=options.json) as progress:
                    executor.work(session, tasks, progress)
            damaged = _score(session, executor, publish, leases, say)
            plan.identities.given.look_again()
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
