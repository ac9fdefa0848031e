"""What an output folder holds and lacks: for `dbbench status` and `dbbench run --dry-run`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dbbench.artifact import MANIFEST, Artifact
from dbbench.cost import estimate
from dbbench.data.dataset import ReferenceImage
from dbbench.data.subject import Subject, load_subjects
from dbbench.identity import Identities
from dbbench.lease import running
from dbbench.plan import STAGES, Plan, Task
from dbbench.plugins import add_method_file
from dbbench.remote import Remote
from dbbench.scoring import finished_runs, scored
from dbbench.suite import Run
from dbbench.units import gigabytes
from dbbench.workspace import Workspace, count_images, estimate_bytes

STYLES = {
    "running": "cyan",
    "done": "green",
    "missing": "dim",
    "stale": "yellow",
    "damaged": "red",
    "failed": "red",
}


@dataclass(frozen=True)
class RecordedSource:
    """Stands for the source of an output folder where only what was recorded of it is wanted."""

    out: Path
    name: str
    remote: Remote | None = None

    def fingerprint(self, subject: Subject) -> str:
        """Return the fingerprint that the written references were made with, "" if none were."""
        import json

        key = f"references/{subject.name}"
        try:
            if self.remote is not None:
                return str((self.remote.manifest(key) or {})["inputs"]["images"])
            text = (self.out / key / MANIFEST).read_text(encoding="utf-8")
            return str(json.loads(text)["inputs"]["images"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def load(self, subject: Subject) -> tuple[ReferenceImage, ...]:
        """There are no images here."""
        raise NotImplementedError("only fingerprints are recorded")


def recorded_plan(out: Path, remote: Remote | None = None) -> tuple[Plan, tuple[Run, ...]]:
    """Return the plan of an output folder as its last call left it, and all runs asked for.

    Raises UserError where the folder holds no results.
    """
    workspace = Workspace(out)
    suite = workspace.suite()
    for reference in suite.method_files.values():
        add_method_file(reference)
    record, selection = workspace.read(), workspace.selection()
    identities = Identities(suite, str(record.get("device", "cpu")))
    workspace.recall(identities, selection.methods, trust=True)
    source = RecordedSource(out, str(record.get("source", suite.source)), remote)
    subjects = {subject.name: subject for subject in load_subjects()}
    return Plan(suite, out, subjects, source, identities, remote), selection.runs(suite)


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
