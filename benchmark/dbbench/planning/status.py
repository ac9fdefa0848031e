"""What an output folder holds and lacks: for `dbbench status` and `dbbench run --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dbbench.planning.build import recorded_plan
from dbbench.planning.cost import count_images, estimate, estimate_bytes
from dbbench.planning.finished import finished_runs, scored
from dbbench.planning.plan import Plan
from dbbench.planning.task import STAGES, Task
from dbbench.storage.artifact import Artifact
from dbbench.storage.leases import running
from dbbench.storage.remote import Remote
from dbbench.suites.runs import Run
from dbbench.units import gigabytes

STYLES = {
    "running": "cyan",
    "done": "green",
    "missing": "dim",
    "stale": "yellow",
    "damaged": "red",
    "failed": "red",
}


def print_status(out: Path, console: Console, remote: Remote | None = None) -> None:
    """Print the state of every run's stages, and what is missing in all."""
    plan, runs = recorded_plan(out, remote)
    table = _runs_table(plan, runs)
    console.print(table)
    for name, process in running(out).items():
        if name.partition(" ")[0] in STAGES:
            console.print(f"running: {name} ({process})", style="cyan", soft_wrap=True)
    for log in sorted((out / "logs").glob("*.log")):
        reason = log.read_text(encoding="utf-8").strip().rpartition("\n")[2]
        console.print(f"failed: {reason} (see {log})", style="red", soft_wrap=True)
    finished = finished_runs(plan, runs)
    table_state = "covers them" if finished and scored(plan, finished) else "has to be made"
    console.print(
        f'suite "{plan.suite.name}": {len(finished)} of {len(runs)} runs finished;'
        f" the leaderboard {table_state}",
        soft_wrap=True,
    )


def print_dry_run(plan: Plan, runs: Sequence[Run], console: Console) -> None:
    """Print what a call would do, and what it would take."""
    tasks = plan.tasks(runs)
    console.print(_runs_table(plan, runs, tasks))
    console.print(f"to do: {_counts(tasks) or 'nothing'}", soft_wrap=True)
    if tasks:
        size = gigabytes(estimate_bytes(plan, tasks))
        images = count_images(plan, tasks)
        line = f"{images:,} images to sample; about {size} of disk"
        if any(task.stage == "train" for task in tasks):
            line += ", checkpoints of methods not trained here yet not counted"
        console.print(line, soft_wrap=True)
        console.print(estimate(plan, tasks).describe(plan.identities.device), soft_wrap=True)


def _runs_table(plan: Plan, runs: Sequence[Run], tasks: Sequence[Task] | None = None) -> Table:
    """One row a run: the state of its stages, or with `tasks` which of them are to do."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("method", "subject", "seed", "train", "sample", "encode"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    todo = None if tasks is None else {task.key for task in tasks}
    at_work = running(plan.out)
    for run in runs:
        cells = [run.method, run.subject, str(run.seed)]
        for stage, artifacts in _run_artifacts(plan, run).items():
            state = _worst(artifacts)
            if (plan.out / "logs" / f"{str(run).replace('/', '-')}.{stage}.log").is_file():
                state = "failed"
            if f"{stage} {run}" in at_work:
                state = "running"
            if todo is not None:
                state = "to do" if f"{stage} {run}" in todo else "done"
            cells.append(f"[{STYLES.get(state, 'bold')}]{state}[/]")
        table.add_row(*cells)
    return table


def _run_artifacts(plan: Plan, run: Run) -> dict[str, list[Artifact]]:
    return {
        "train": [plan.checkpoint(run)],
        "sample": [plan.samples(run)],
        "encode": [plan.features(run, role) for role in plan.roles],
    }


def _worst(artifacts: Sequence[Artifact]) -> str:
    states = {artifact.state for artifact in artifacts}
    return next(s for s in ("damaged", "stale", "missing", "done") if s in states)


def _counts(tasks: Sequence[Task]) -> str:
    counts = Counter(task.stage for task in tasks)
    return ", ".join(f"{counts[stage]} {stage}" for stage in STAGES if counts[stage])
