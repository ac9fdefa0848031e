"""Sharing: take artifacts from other output folders instead of making them again.

An artifact's fingerprint covers all that its content depends on, so artifacts with the same
fingerprint are equal in every folder. Samples are not shared: they contain the name of their row.
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
    """Take the tasks' artifacts from other output folders; return how many were found.

    Each is verified by its hashes. Files are hard-linked if the file system allows it, else copied.
    Tasks that another process is doing are skipped.
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
    """Return whether a task's artifacts can be shared between output folders."""
    return task.stage in {"references", "prior", "train"} or (
        task.stage == "encode" and task.run is None
    )


def without_shared(tasks: Iterable[Task], seen: set[str]) -> list[Task]:
    """Return the tasks with artifacts to make if those in `seen` are shared; add theirs to it."""
    left = []
    for task in tasks:
        fingerprints = {artifact.fingerprint for _, artifact in task.artifacts}
        if not is_shared(task) or not fingerprints <= seen:
            left.append(task)
        seen |= fingerprints
    return left


def _places(plan: Plan, task: Task, artifact: Artifact, folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the possible folders of an artifact; other suites may name the same training's row
    differently.
    """
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
    # Safe: stages replace files and never write into an existing one.
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
