"""Image sets: one reader per file; each reads the images of one kind of source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbbench.data.dataset import Dataset
from dbbench.data.photographs import Photographs
from dbbench.errors import UserError
from dbbench.image_sets.image_set import Submission, accept
from dbbench.image_sets.rows import Rows

MANIFESTS = (".csv", ".jsonl", ".parquet")
Records = Sequence[Mapping[str, Any]]
"""Images in memory: records with the columns of a manifest, whose image may be a PIL image."""


def read_submission(
    source: Path | Records,
    *,
    scratch: Path,
    dataset: Dataset | None = None,
    method: str | None = None,
    identifier: str = "",
    own_subjects: Iterable[str] = (),
    any_noun: bool = False,
) -> Submission:
    """Return the images of a folder, manifest, data set, finished run or Python program.

    Subjects and prompts are those of `dataset`, by default of the 30 subjects; a finished run has
    its own. Images that are not
    files are written to `scratch`; `any_noun` is as in `accept`. Raises UserError if no image can
    be scored, and for a manifest without the required columns.
    """
    from dbbench.image_sets import memory, run

    if isinstance(source, Path):
        if source.is_dir() and run.is_run(source):
            return run.read(source, method=method)
        rows, what, name = _read_path(source, scratch), str(source), source.resolve().stem
    else:
        rows, what, name = memory.read(source, scratch), "the table", "images"
    found = accept(
        rows.rows,
        dataset=dataset or Photographs(),
        method=method or name,
        identifier=identifier,
        own_subjects=own_subjects,
        any_noun=any_noun,
    )
    found = replace(found, refused=(*rows.refused, *found.refused))
    if not found.pictures:
        reason = found.refused[0] if found.refused else "it is empty"
        raise UserError(f"no image of {what} can be scored: {reason}")
    return found


def _read_path(path: Path, scratch: Path) -> Rows:
    from dbbench.image_sets import dataset, folder, manifest

    if not path.exists():
        raise UserError(f"there is no {path}; give a folder of images, a manifest or a run")
    if path.is_dir() and dataset.is_dataset(path):
        return dataset.read(path, scratch)
    if path.is_dir() and (listing := manifest.inside(path)) is not None:
        return manifest.read(listing, scratch)
    if path.is_dir():
        return folder.read(path)
    if path.suffix.lower() in MANIFESTS:
        return manifest.read(path, scratch)
    raise UserError(
        f"{path} is neither a folder nor a manifest; manifests end in {', '.join(MANIFESTS)}"
    )
