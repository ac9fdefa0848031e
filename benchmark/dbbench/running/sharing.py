"""Sharing: what another output folder holds already is taken from there, and not made again.

An artifact's fingerprint covers all that its content depends on, so that equal ones are the same
wherever they lie. Samples are not taken over: they name the row that they were drawn for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.storage.artifact import MANIFEST, Artifact
from dbbench.storage.leases import Leases
from dbbench.storage.run_folder import checkpoint_folder, runs_in


def take_over(plan: Plan, tasks: Iterable[Task], folders: Sequence[Path], leases: Leases) -> int:
    """Take what these tasks would make from other output folders; return how many artifacts.

    Every byte is checked. Files are linked where the disk can do so, else copied. What another
    process is making here is left to it.
    """
    taken = 0
    for task in filter(is_shared, tasks if folders else ()):
        with leases.trying(task.key) as lease:
            for _, artifact in task.artifacts if lease else ():
                for place in _places(plan, task, artifact, folders):
                    if Artifact(place, artifact.inputs).verify() == "done":
                        with artifact.create() as folder:
                            _link_all(place, folder)
                        taken += 1
                        break
    return taken


def is_shared(task: Task) -> bool:
    """Whether what a task makes is the same in every folder that asks for it."""
    return task.stage in {"references", "prior", "train"} or (
        task.stage == "encode" and task.run is None
    )


def without_shared(tasks: Iterable[Task], seen: set[str]) -> list[Task]:
    """Return the tasks that are left when what was `seen` is taken over; they are added to it."""
    left = []
    for task in tasks:
        fingerprints = {artifact.fingerprint for _, artifact in task.artifacts}
        if not is_shared(task) or not fingerprints <= seen:
            left.append(task)
        seen |= fingerprints
    return left


def _places(plan: Plan, task: Task, artifact: Artifact, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield where the artifact may lie; rows of other suites call the same training otherwise."""
    for folder in folders:
        if task.stage == "train" and task.run is not None:
            for run in runs_in(folder):
                if (run.subject, run.seed) == (task.run.subject, task.run.seed):
                    yield folder / checkpoint_folder(run)
        else:
            yield folder / artifact.path.relative_to(plan.out)


def _link_all(source: Path, target: Path) -> None:
    shutil.copytree(
        source,
        target,
        copy_function=_link,
        ignore=shutil.ignore_patterns(MANIFEST),
        dirs_exist_ok=True,
    )


def _link(source: str, target: str) -> None:
    # Stages replace files and never write into one, so that two folders can hold the same.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
