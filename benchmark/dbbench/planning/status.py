"""The state of each run in an output folder: for `dbbench status` and `dbbench run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.storage.leases import running
from dbbench.suites.runs import Run


def run_states(
    plan: Plan, runs: Iterable[Run], tasks: Iterable[Task] | None = None
) -> Iterator[tuple[Run, dict[str, str]]]:
    """Yield each run with the states of its stages; with `tasks` they are "to do" or "done"."""
    todo = None if tasks is None else {task.key for task in tasks}
    in_progress = running(plan.out)
    for run in runs:
        made = {
            "train": [plan.checkpoint(run)],
            "sample": [plan.samples(run)],
            "encode": [plan.features(run, role) for role in plan.roles],
        }
        states = {}
        for stage, artifacts in made.items():
            found = {artifact.state for artifact in artifacts}
            state: str = next(s for s in ("damaged", "stale", "missing", "done") if s in found)
            if (plan.out / "logs" / f"{str(run).replace('/', '-')}.{stage}.log").is_file():
                state = "failed"
            if f"{stage} {run}" in in_progress:
                state = "running"
            if todo is not None:
                state = "to do" if f"{stage} {run}" in todo else "done"
            states[stage] = state
        yield run, states
