"""`execute`: do the missing tasks of a request with an executor, then score the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from dbbench.errors import UserError
from dbbench.interrupts import stop_requests
from dbbench.planning.build import make_plan
from dbbench.planning.cost import estimate_bytes
from dbbench.planning.finished import finished_runs, scored, scored_again
from dbbench.planning.plan import Plan, describe_kept
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
from dbbench.storage.record import Selection
from dbbench.suites.runs import Run

ROUNDS = 5
"""How often a call plans again because files were found damaged during the work."""


def execute(
    request: Request,
    *,
    options: RunOptions,
    console: Console,
    publish: Publish,
    executor: Executor | None = None,
    others: Sequence[Path] = (),
) -> Outcome:
    """Do the missing tasks of a request, then score all finished runs of the folder.

    The default executor is this process. Artifacts that the output folders `others` contain are
    taken from there. Other calls may work in the same folder: no task is done twice, and this call
    ends when all its runs are done.

    Raises UserError for a problem that stops all runs (settings, references, weights, the disk);
    the outcome lists the tasks that failed. Stopped is not caught; complete artifacts are kept.
    """

    def say(text: str) -> None:
        if not options.json:
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    suite, out, runs = request.suite, request.out, request.runs
    device, remote = options.device, request.remote
    workspace = Workspace(out)
    dataset = request.dataset
    plan = make_plan(request, device)
    for row, reason in plan.kept.items():
        say(describe_kept(row, reason))
    plan.identities.resolve_methods(_selected(plan, workspace, runs).methods)
    at_end = ExitStack()
    if remote is not None:
        at_end.callback(remote.send_files)
    with (
        stop_requests() as stop,
        at_end,
        storage_errors(out),
        Leases(out) as leases,
        workspace.entered(leases, [suite.model_dump(mode="json"), device.split(":")[0]], say),
    ):
        workspace.refuse_other(suite)
        plan.identities.resolve_methods(_selected(plan, workspace, runs).methods)
        models = Models(plan, device)
        executor = executor or Local()
        tasks = plan.tasks(runs)
        while executor.identify(models, tasks, say):
            tasks = plan.tasks(runs)  # A loaded network may differ from the recorded one.
        if take_over(plan, tasks, others, leases):
            tasks = plan.tasks(runs)
        workspace.refuse_if_full(estimate_bytes(plan, tasks), suite)
        with leases.hold(RECORD, say):
            workspace.enter(plan, workspace.selection().join(runs, dataset), device)
        if remote is not None:
            remote.send_files([RECORD])  # Readers find the artifacts through it.
        session = Session(plan, models, options, leases, stop=stop)
        for _ in range(ROUNDS):
            if tasks:
                session.start(len(tasks))
                with show(console, tasks, as_json=options.json) as progress:
                    executor.work(session, tasks, progress)
            damaged = _score(session, executor, publish, say)
            plan.identities.given.look_again()
            tasks = session.open(plan.tasks(runs))
            if not tasks and not damaged:
                return session.outcome
        raise UserError(
            f"files in {out} were damaged again after each of {ROUNDS} repairs; check the disk or"
            " choose another --out"
        )


def _selected(plan: Plan, workspace: Workspace, runs: Sequence[Run]) -> Selection:
    """Return the selections of all calls and of this one, as far as their methods are found."""
    return workspace.selection().join(runs, plan.dataset).without(plan.kept)


def _score(
    session: Session, executor: Executor, publish: Publish, say: Callable[[str], None]
) -> bool:
    """Score the finished runs if their table is not up to date; return True if one is damaged."""
    plan = session.plan
    with session.leases.hold("score", say):
        selection = session.workspace.selection().without(plan.kept)
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
            say(f"{error.artifact.path}: {error.problem}; it will be made again")
            return True
        session.events.write(stage="score", status="done", **meter.read(count, "images"))
        session.outcome.done += 1
        return False
