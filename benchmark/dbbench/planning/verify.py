"""`dbbench verify`: every byte of an output folder against the hashes of its manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dbbench.errors import UserError
from dbbench.planning.build import recorded_plan
from dbbench.planning.finished import finished_runs, inspect_scores
from dbbench.planning.plan import Plan
from dbbench.planning.status import STYLES
from dbbench.storage.artifact import Artifact
from dbbench.storage.remote import Remote
from dbbench.storage.run_folder import SCORES_MANIFEST
from dbbench.suites.runs import Run


def verify(out: Path, console: Console, remote: Remote | None = None) -> bool:
    """Print what is damaged or stale; return whether everything that is there is as it was made.

    What is damaged loses its manifest, so that the next `dbbench run` makes it again. Raises
    UserError where the folder holds no results. With a `remote`, `out` is its mirror, and what is
    read is there.
    """
    plan, runs = recorded_plan(out, remote)
    artifacts = {str(artifact.path.relative_to(out)): artifact for artifact in _all(plan, runs)}
    counts: Counter[str] = Counter()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("artifact", "state", "what is wrong"):
        table.add_column(column, overflow="fold")
    read_only = False
    with _bar(console) as bar:
        for name, artifact in bar.track(artifacts.items(), description="verifying"):
            state, problem = artifact.examine()
            counts[state] += 1
            if state in {"damaged", "stale"}:
                table.add_row(name, f"[{STYLES[state]}]{state}[/]", problem)
            if state == "damaged":
                read_only |= not _mark(artifact)
    if (out / SCORES_MANIFEST).is_file():
        state, problem = inspect_scores(plan, finished_runs(plan, runs))
        # Of other runs than are finished now: not wrong, but not up to date.
        counts[state] += 1
        if state in {"damaged", "stale"}:
            table.add_row(SCORES_MANIFEST, f"[{STYLES[state]}]{state}[/]", problem)
    if table.row_count:
        console.print(table)
    said = ", ".join(f"{counts[s]} {s}" for s in ("done", "damaged", "stale", "missing"))
    console.print(f"{remote.url if remote else out}: {said}", soft_wrap=True, highlight=False)
    if counts["damaged"] or counts["stale"]:
        console.print(
            "the dbbench run that made them makes them again, and nothing else"
            + ("; first make the folder writable" if read_only else ""),
            soft_wrap=True,
        )
    return not (counts["damaged"] or counts["stale"])


def _all(plan: Plan, runs: tuple[Run, ...]) -> Iterator[Artifact]:
    """Yield every artifact that a folder's runs are made of."""
    for run in runs:
        yield plan.references(run.subject)
        yield from (plan.real_features(run.subject, role) for role in plan.roles)
        if (prior := plan.prior_of(run)) is not None:
            yield prior
        yield plan.checkpoint(run)
        yield plan.samples(run)
        yield from (plan.features(run, role) for role in plan.roles)


def _mark(artifact: Artifact) -> bool:
    """Let the next run see at a glance that it is damaged; return whether that could be written."""
    try:
        artifact.discard()
    except (OSError, UserError):
        return False
    return True


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
