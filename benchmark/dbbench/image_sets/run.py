"""Reads a finished `dbbench run`: its samples, references and, if it has its own, encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dbbench.data.dataset import load_dataset
from dbbench.errors import UserError
from dbbench.image_sets.image_set import ImageRow, Submission, accept
from dbbench.storage.artifact import MANIFEST, Damaged
from dbbench.storage.disk import RECORD
from dbbench.storage.record import Record
from dbbench.storage.run_folder import (
    RUNS,
    Samples,
    all_references,
    read_file,
    runs_in,
    samples_folder,
    samples_of,
    training_of,
)
from dbbench.suites.runs import Run


def is_run(folder: Path) -> bool:
    """Return whether a folder is the output of `dbbench run`."""
    return (folder / RECORD).is_file() and (folder / RUNS).is_dir()


def read(out: Path, *, method: str | None) -> Submission:
    """Return the complete samples of all runs in an output folder, or of one `method`."""
    suite = Record(out).suite()
    dataset, found = load_dataset(suite.source), Submission()
    for run in runs_in(out):
        folder = samples_folder(run)
        if not (out / folder / MANIFEST).is_file():
            line = f"{folder}: not finished; repeat the dbbench run to continue"
            found = found.join(Submission(refused=(line,) if (out / folder).is_dir() else ()))
            continue
        if method not in {None, run.method} or (samples := samples_of(out, run)) is None:
            continue
        rows, altered = _rows(out, run, samples)
        training = training_of(out, run)
        identifier = "" if training is None else training.identifier
        part = accept(rows, dataset=dataset, method=run.method, identifier=identifier)
        found = found.join(part).join(Submission(refused=altered))
    if not found.pictures:
        raise UserError(f"{out} has no finished samples{f' of {method}' if method else ''}")
    return replace(
        found,
        banner=suite.banner,
        encoders=suite.encoders if suite.banner else {},
        references={name: tuple(each.paths) for name, each in all_references(out).items()},
    )


def _rows(out: Path, run: Run, samples: Samples) -> tuple[list[ImageRow], tuple[str, ...]]:
    """Return a row for each unchanged image of a run, and a line for each altered one."""
    rows, altered = [], []
    for sample in samples.images:
        path = samples.path(sample)
        name = str(path.relative_to(out))
        try:
            read_file(path)
        except Damaged as error:
            altered.append(str(error))
            continue
        rows.append(
            ImageRow(
                where=name,
                image=path,
                name=name,
                subject=run.subject,
                prompt=sample.prompt,
                method=run.method,
                seed=run.seed,
                class_noun=samples.class_noun,
                category=sample.category,
            )
        )
    return rows, tuple(altered)
