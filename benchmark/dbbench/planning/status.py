"""What an output folder holds of each run: for `dbbench status` and `dbbench run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.storage.artifact import Artifact
from dbbench.storage.leases import running
from dbbench.suites.runs import Run


def run_states(
    plan: Plan, runs: Iterable[Run], tasks: Iterable[Task] | None = None
) -> Iterator[tuple[Run, dict[str, str]]]:
    """Yield each run with the state of its stages, or with `tasks` which of them are "to do"."""
    todo = None if tasks is None else {task.key for task in tasks}
    at_work = running(plan.out)
    for run in runs:
        states = {}
        for stage, artifacts in _run_artifacts(plan, run).items():
            state = _worst(artifacts)
            if (plan.out / "logs" / f"{str(run).replace('/', '-')}.{stage}.log").is_file():
                state = "failed"
            if f"{stage} {run}" in at_work:
                state = "running"
            if todo is not None:
                state = "to do" if f"{stage} {run}" in todo else "done"
            states[stage] = state
        yield run, states


def _run_artifacts(plan: Plan, run: Run) -> dict[str, list[Artifact]]:
    return {
        "train": [plan.checkpoint(run)],
        "sample": [plan.samples(run)],
        "encode": [plan.features(run, role) for role in plan.roles],
    }


def _worst(artifacts: Sequence[Artifact]) -> str:
    states = {artifact.state for artifact in artifacts}
    return next(s for s in ("damaged", "stale", "missing", "done") if s in states)
