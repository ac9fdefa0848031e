"""The last stage: features of all runs -> one score table, and leaderboard and report from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dbbench.data.subject import Subject
from dbbench.errors import UserError
from dbbench.evaluation.metric import load_metric
from dbbench.planning.build import recorded_plan
from dbbench.planning.finished import finished_runs, scored, scored_from
from dbbench.planning.plan import Plan
from dbbench.storage.artifact import Artifact, write_manifest
from dbbench.storage.remote import open_folder
from dbbench.storage.run_folder import (
    LEADERBOARD,
    SCORES,
    SCORES_MANIFEST,
    References,
    Samples,
    Training,
)
from dbbench.suites.runs import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from dbbench.evaluation.metric import Metric

    Part = Sequence[Run] | Sequence[str]
    Work = Callable[[Plan, Part], pd.DataFrame]
    Each = Callable[[Plan, Work, Iterable[Part]], Iterable[pd.DataFrame]]

Publish = Callable[[Path], object]
"""Writes leaderboard and page of a scored folder, as `dbbench.reports.write_report` does."""
RUNS_A_PART = 20
"""2,000 images of the paper's protocol: some megabytes of table."""


def score(plan: Plan, runs: Sequence[Run], publish: Publish, each: Each | None = None) -> int:
    """Score these runs and their subjects' real images; write the table, then publish the folder.

    `each` works out parts of the table, elsewhere if it likes, and gives them back in order; they
    are written as they come, so that nobody holds all. Returns the number of images scored. What a
    metric cannot say of an image has no row. Raises Damaged where features are not, to the last
    byte, what their encoder once said.
    """
    from dbbench.evaluation.scores import write_parts

    subjects = tuple(dict.fromkeys(run.subject for run in runs))
    parts: list[Part] = [*_chunks(runs, RUNS_A_PART), subjects]
    made = each(plan, score_part, parts) if each else (score_part(plan, part) for part in parts)
    (plan.out / SCORES_MANIFEST).unlink(missing_ok=True)
    write_parts(made, plan.out / SCORES)
    fetch_shown(plan, runs)
    publish(plan.out)
    files = [plan.out / name for name in (SCORES, *LEADERBOARD)]
    write_manifest(plan.out / SCORES_MANIFEST, plan.scores(runs), files)
    return sum(len(plan.jobs(run)) for run in runs)


def open_scored(out: str, publish: Publish) -> Path:
    """Return an output folder, or the mirror of an address, with all that a report shows of it.

    The runs that an interrupted call finished are scored, so that a half-done folder shows them.
    Raises UserError where something of them is damaged.
    """
    folder, remote = open_folder(out)
    try:
        plan, runs = recorded_plan(folder, remote, look=False)
    except (UserError, ValidationError):
        return folder  # Whoever reads the results says what is wrong with them.
    finished = finished_runs(plan, runs)
    if finished and not scored(plan, finished):
        score(plan, finished, publish)
    fetch_shown(plan, finished)
    return folder


def fetch_shown(plan: Plan, runs: Sequence[Run]) -> None:
    """Bring here what a report shows of these runs, where it is at home elsewhere."""
    if plan.remote is None:
        return
    items: list[Run | str] = [*runs, *dict.fromkeys(run.subject for run in runs)]
    for item in items:
        for artifact in scored_from(plan, item):
            artifact.fetch()
        if isinstance(item, Run):
            plan.checkpoint(item).fetch_file(Training.FILE)


def score_part(plan: Plan, part: Part) -> pd.DataFrame:
    """Return the rows of some runs, or of the real images of some subjects."""
    from dbbench.evaluation.scores import score_table

    metrics = [load_metric(name) for name in plan.suite.metrics]
    rows: list[dict[str, Any]] = []
    for item in part:
        for artifact in scored_from(plan, item):
            artifact.fetch()
        if isinstance(item, Run):
            rows.extend(_run_rows(plan, item, metrics))
        else:
            rows.extend(_real_rows(plan, item, metrics))
    return score_table(rows)


def _chunks(runs: Sequence[Run], size: int) -> Iterator[Sequence[Run]]:
    for start in range(0, len(runs), size):
        yield runs[start : start + size]


def _run_rows(plan: Plan, run: Run, metrics: Sequence[Metric]) -> Iterator[dict[str, Any]]:
    import math

    from dbbench.evaluation.metric import evaluate_from

    samples = Samples.read(plan.samples(run)).images
    prompts = [sample.prompt for sample in samples]
    for metric in metrics:
        made = plan.features(run, metric.role)
        has_distances = (made.path / "distances.npy").is_file()
        values = evaluate_from(
            metric,
            prompts,
            images=partial(_vectors, made, "images.npy"),
            references=partial(_real, plan, run.subject, metric.role),
            texts=partial(_vectors, made, "texts.npy"),
            distances=_vectors(made, "distances.npy") if has_distances else None,
        )
        for sample, value in zip(samples, values, strict=True):
            if math.isnan(value):
                continue
            yield _row(plan, run.method, plan.subjects[run.subject], metric, value) | {
                "seed": run.seed,
                "prompt": sample.prompt,
                "category": sample.category,
                "image": sample.file,
            }


def _real_rows(plan: Plan, subject: str, metrics: Sequence[Metric]) -> Iterator[dict[str, Any]]:
    from dbbench.evaluation.metric import score_real
    from dbbench.evaluation.scores import REAL

    references = References.read(plan.references(subject)).images
    for metric in metrics:
        if metric.compares != "references":
            continue
        values = score_real(metric, _real(plan, subject, metric.role))
        for reference, value in zip(references, values, strict=bool(len(values))):
            yield _row(plan, REAL, plan.subjects[subject], metric, value) | {
                "seed": None,
                "prompt": None,
                "category": None,
                "image": reference.file,
            }


def _row(plan: Plan, method: str, subject: Subject, metric: Metric, value: float) -> dict[str, Any]:
    return {
        "suite": plan.suite.name,
        "method": method,
        "subject": subject.name,
        "class_noun": subject.class_noun,
        "kind": subject.kind,
        "metric": metric.name,
        "value": float(value),
    }


def _real(plan: Plan, subject: str, role: str) -> NDArray[np.float32]:
    return _vectors(plan.real_features(subject, role), "images.npy")


def _vectors(features: Artifact, name: str) -> NDArray[np.float32]:
    import numpy as np

    vectors: NDArray[np.float32] = np.load(io.BytesIO(features.read(name)), allow_pickle=False)
    return vectors
