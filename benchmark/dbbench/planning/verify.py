"""`dbbench verify`: compare every file of an output folder with the hash in its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbbench.advance import Advance, silent
from dbbench.errors import UserError
from dbbench.planning.build import recorded_plan
from dbbench.planning.finished import finished_runs, inspect_scores
from dbbench.planning.plan import Plan
from dbbench.storage.artifact import Artifact, State
from dbbench.storage.remote import Remote
from dbbench.storage.run_folder import SCORES_MANIFEST
from dbbench.suites.runs import Run


@dataclass(frozen=True)
class Verified:
    """The result for one artifact."""

    name: str
    state: State
    problem: str
    """What is wrong with it; "" if nothing is."""
    marked: bool = True
    """Whether the manifest of a damaged artifact could be removed."""


def verify(out: Path, remote: Remote | None = None, advance: Advance = silent) -> list[Verified]:
    """Compare every artifact of a folder, and its score table, with the hashes of its manifest.

    The manifest of a damaged artifact is removed, so that the next `dbbench run` makes it again.
    With a `remote`, `out` is its mirror and the remote files are read. Raises UserError if the
    folder contains no results.
    """
    plan, runs = recorded_plan(out, remote)
    artifacts = {str(artifact.path.relative_to(out)): artifact for artifact in _all(plan, runs)}
    found = []
    for number, (name, artifact) in enumerate(artifacts.items(), 1):
        state, problem = artifact.examine()
        marked = state != "damaged" or _mark(artifact)
        found.append(Verified(name, state, problem, marked))
        advance(number, len(artifacts), {})
    if (out / SCORES_MANIFEST).is_file():
        # A table of other runs than the finished ones is stale, not damaged.
        finished = finished_runs(plan, runs)
        found.append(Verified(SCORES_MANIFEST, *inspect_scores(plan, finished)))
    return found


def _all(plan: Plan, runs: tuple[Run, ...]) -> Iterator[Artifact]:
    """Yield all artifacts that the runs use, some of them more than once."""
    for run in runs:
        yield plan.references(run.subject)
        yield from (plan.real_features(run.subject, role) for role in plan.roles)
        if (prior := plan.prior_of(run)) is not None:
            yield prior
        yield plan.checkpoint(run)
        yield plan.samples(run)
        yield from (plan.features(run, role) for role in plan.roles)


def _mark(artifact: Artifact) -> bool:
    """Remove the manifest; return whether that was possible."""
    try:
        artifact.discard()
    except (OSError, UserError):
        return False
    return True
