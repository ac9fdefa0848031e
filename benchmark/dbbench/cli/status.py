"""`dbbench status` and `dbbench verify`, and the output of a dry run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from dbbench.storage.disk import latest
from dbbench.terminal import plain_console

if TYPE_CHECKING:
    from dbbench.planning.plan import Plan
    from dbbench.storage.remote import Remote
    from dbbench.suites.runs import Run

STYLES = {
    "running": "cyan",
    "done": "green",
    "missing": "dim",
    "stale": "yellow",
    "damaged": "red",
    "failed": "red",
}

app = typer.Typer()

Folder = Annotated[
    str | None,
    typer.Argument(help="An output folder or its address. Default: the latest in results."),
]


@app.command(epilog="Example:  dbbench status results/mini")
def status(folder: Folder = None) -> None:
    """Show which stages of which runs are done, running, failed (and why), missing or stale."""
    from dbbench.storage.remote import open_folder

    path, remote = open_folder(folder or str(latest()))
    print_status(path, plain_console(), remote)


@app.command(epilog="Examples:\n\ndbbench verify results/mini\n\ndbbench verify && echo whole")
def verify(folder: Folder = None) -> None:
    """Compare every file with its hash; exit with 1 if an artifact is damaged or stale.

    Damaged artifacts are marked; the next dbbench run makes only these again.
    """
    from dbbench.storage.remote import open_folder

    path, remote = open_folder(folder or str(latest()))
    if not print_verified(path, plain_console(), remote):
        raise typer.Exit(1)


def print_status(out: Path, console: Console, remote: Remote | None = None) -> None:
    """Print the state of every run's stages, running tasks, failures and a summary."""
    from dbbench.planning.build import recorded_plan
    from dbbench.planning.finished import finished_runs, scored
    from dbbench.planning.status import run_states
    from dbbench.planning.task import STAGES
    from dbbench.storage.leases import running

    plan, runs = recorded_plan(out, remote)
    _print_runs(run_states(plan, runs), console)
    _print_kept(plan, console)
    for name, process in running(out).items():
        if name.partition(" ")[0] in STAGES:
            console.print(f"running: {name} ({process})", style="cyan", soft_wrap=True)
    for log in sorted((out / "logs").glob("*.log")):
        reason = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        console.print(f"failed: {reason} (see {log})", style="red", soft_wrap=True)
    finished = finished_runs(plan, runs)
    table_state = "is up to date" if finished and scored(plan, finished) else "is not up to date"
    console.print(
        f'suite "{plan.suite.name}": {len(finished)} of {len(runs)} runs finished;'
        f" the leaderboard {table_state}",
        soft_wrap=True,
    )


def print_dry_run(plan: Plan, runs: Sequence[Run], console: Console) -> None:
    """Print the tasks of a call with their time and disk space."""
    from dbbench.planning.cost import count_images, estimate, estimate_bytes
    from dbbench.planning.status import run_states
    from dbbench.planning.task import STAGES
    from dbbench.units import gigabytes

    tasks = plan.tasks(runs)
    _print_runs(run_states(plan, runs, tasks), console)
    _print_kept(plan, console)
    counts = Counter(task.stage for task in tasks)
    to_do = ", ".join(f"{counts[stage]} {stage}" for stage in STAGES if counts[stage])
    console.print(f"to do: {to_do or 'nothing'}", soft_wrap=True)
    if tasks:
        size = gigabytes(estimate_bytes(plan, tasks))
        line = f"{count_images(plan, tasks):,} images to sample; about {size} of disk space"
        if counts["train"]:
            line += ", without checkpoints of methods not trained here yet"
        console.print(line, soft_wrap=True)
        console.print(estimate(plan, tasks).describe(plan.identities.device), soft_wrap=True)


def _print_kept(plan: Plan, console: Console) -> None:
    from dbbench.planning.plan import describe_kept

    for row, reason in plan.kept.items():
        console.print(describe_kept(row, reason), style="yellow", soft_wrap=True)


def print_verified(out: Path, console: Console, remote: Remote | None = None) -> bool:
    """Verify a folder and print the problems; return whether there are none."""
    from dbbench.bars import shown
    from dbbench.planning.verify import verify
    from dbbench.reports.formats.terminal import print_table

    with shown("verifying") as (_, advance):
        found = verify(out, remote, advance)
    counts = Counter(each.state for each in found)
    wrong = [each for each in found if each.state in {"damaged", "stale"}]
    if wrong:
        rows = [(w.name, Text(w.state, STYLES[w.state]), w.problem) for w in wrong]
        print_table(console, "", ("artifact", "state", "problem"), rows, left=range(3))
    summary = ", ".join(f"{counts[s]} {s}" for s in ("done", "damaged", "stale", "missing"))
    console.print(f"{remote.url if remote else out}: {summary}", soft_wrap=True, highlight=False)
    if wrong:
        console.print(
            "rerun the dbbench run that made them: it makes only these again"
            + ("" if all(w.marked for w in wrong) else "; first make the folder writable"),
            soft_wrap=True,
        )
    return not wrong


def _print_runs(states: Iterable[tuple[Run, Mapping[str, str]]], console: Console) -> None:
    from dbbench.reports.formats.terminal import print_table

    header = ("method", "subject", "seed", "train", "sample", "encode")
    rows: list[list[str | Text]] = [
        [
            *(run.method, run.subject, str(run.seed)),
            *(Text(state, STYLES.get(state, "bold")) for state in stages.values()),
        ]
        for run, stages in states
    ]
    print_table(console, "", header, rows, left=range(6))
