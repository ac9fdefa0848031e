"""Image sets: one reader a file; each turns what a user names into rows or images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.image_sets.image_set import Submission, accept

MANIFESTS = (".csv", ".jsonl", ".parquet")


def read_submission(
    path: Path,
    *,
    scratch: Path,
    dataset: Dataset,
    method: str | None = None,
    identifier: str = "",
    own_subjects: Iterable[str] = (),
) -> Submission:
    """Return the images that a folder, manifest, data set or finished run holds.

    Subjects and prompts are those of `dataset`, of a finished run those of its own. `scratch` takes
    the images that lie inside of a data set. Raises UserError where nothing in it
    can be scored, and for a manifest without the columns that it needs.
    """
    from dbbench.image_sets import dataset as saved
    from dbbench.image_sets import folder, manifest, run

    if not path.exists():
        raise UserError(f"there is no {path}; name a folder of images, a manifest or a run")
    if path.is_dir() and run.is_run(path):
        return run.read(path, method=method)
    if path.is_dir() and saved.is_dataset(path):
        rows = saved.read(path, scratch)
    elif path.is_dir() and (listing := manifest.inside(path)) is not None:
        rows = manifest.read(listing, scratch)
    elif path.is_dir():
        rows = folder.read(path)
    elif path.suffix.lower() in MANIFESTS:
        rows = manifest.read(path, scratch)
    else:
        raise UserError(
            f"{path} is no folder and no manifest; a manifest ends in {', '.join(MANIFESTS)}"
        )
    found = accept(
        rows.rows,
        dataset=dataset,
        method=method or path.resolve().stem,
        identifier=identifier,
        own_subjects=own_subjects,
    )
    found = replace(found, refused=(*rows.refused, *found.refused))
    if not found.pictures:
        reason = found.refused[0] if found.refused else "it is empty"
        raise UserError(f"nothing in {path} can be scored: {reason}")
    return found
