"""Which runs are finished, and whether the score table covers them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from dbbench.files import fingerprint, read_json
from dbbench.planning.plan import Plan
from dbbench.storage.artifact import Artifact, State, inspect
from dbbench.storage.run_folder import PAGE, SCORES_MANIFEST
from dbbench.suites.runs import Run


def scored(plan: Plan, runs: Iterable[Run]) -> bool:
    """Return whether the score table and the report of exactly these runs are undamaged."""
    return inspect_scores(plan, runs)[0] == "done" and (plan.out / PAGE).is_file()


def inspect_scores(plan: Plan, runs: Iterable[Run]) -> tuple[State, str]:
    """Return the state of these runs' score table and leaderboard, verified by hashes."""
    return inspect(plan.out / SCORES_MANIFEST, fingerprint(plan.scores(runs)), hashes=True)


def scored_again(plan: Plan, runs: Iterable[Run]) -> str:
    """Return why scored runs need a new score table; "" if they were not scored before."""
    before = read_json(plan.out / SCORES_MANIFEST).get("inputs", {})
    now = json.loads(json.dumps(plan.scores(runs)))
    if not before or before.get("runs", {}).keys() != now["runs"].keys():
        return ""
    changed = [key for key in now if before.get(key) != now[key]]
    return f"scored again: {', '.join(changed)} changed since then" if changed else ""


def finished_runs(plan: Plan, runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return the runs whose features are complete for the current suite."""
    return tuple(
        run for run in runs if all(plan.features(run, role).complete for role in plan.roles)
    )


def scored_from(plan: Plan, item: Run | str) -> Iterator[Artifact]:
    """Yield the artifacts that the rows of a run, or of a subject's real images, come from."""
    subject = item.subject if isinstance(item, Run) else item
    yield plan.references(subject)
    for role in plan.roles:
        yield plan.real_features(subject, role)
    if isinstance(item, Run):
        yield plan.samples(item)
        for role in plan.roles:
            yield plan.features(item, role)
