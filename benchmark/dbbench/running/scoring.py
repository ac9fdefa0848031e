"""The last stage: it computes the score table from the features, then leaderboard and report."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

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

    TablePart = Sequence[Run] | Sequence[str]
    Work = Callable[[Plan, TablePart], pd.DataFrame]
    Map = Callable[[Plan, Work, Iterable[TablePart]], Iterable[pd.DataFrame]]

Publish = Callable[[Path], object]
"""Writes the leaderboard and the page of a scored folder: `dbbench.reports.write_report`."""
RUNS_A_PART = 20
"""2,000 images of the paper's protocol: some megabytes of table."""


def score(plan: Plan, runs: Sequence[Run], publish: Publish, apply: Map | None = None) -> int:
    """Score these runs and their subjects' real images; write the table, then publish the folder.

    `apply` computes the parts of the table, possibly in other processes, and yields them in order.
    Each part is written at once, so that the whole table is never in memory. An undefined value has
    no row. Returns the number of images. Raises Damaged if features do not match their manifest.
    """
    from dbbench.evaluation.scores import write_parts

    subjects = tuple(dict.fromkeys(run.subject for run in runs))
    starts = range(0, len(runs), RUNS_A_PART)
    parts: list[TablePart] = [*(runs[start : start + RUNS_A_PART] for start in starts), subjects]
    made = apply(plan, score_part, parts) if apply else (score_part(plan, part) for part in parts)
    (plan.out / SCORES_MANIFEST).unlink(missing_ok=True)
    write_parts(made, plan.out / SCORES)
    fetch_shown(plan, runs)
    publish(plan.out)
    files = [plan.out / name for name in (SCORES, *LEADERBOARD)]
    write_manifest(plan.out / SCORES_MANIFEST, plan.scores(runs), files)
    return sum(len(plan.jobs(run)) for run in runs)


def open_scored(out: str, publish: Publish) -> Path:
    """Return an output folder, or the mirror of an address, with all files that a report needs.

    Finished runs of an interrupted call are scored first, so that the report shows them. Raises
    UserError if an artifact of them is damaged.
    """
    folder, remote = open_folder(out)
    try:
        plan, runs = recorded_plan(folder, remote, look=False)
    except (UserError, ValidationError):
        return folder  # The reader of the results reports what is wrong with them.
    finished = finished_runs(plan, runs)
    if finished and not scored(plan, finished):
        score(plan, finished, publish)
    fetch_shown(plan, finished)
    return folder


def fetch_shown(plan: Plan, runs: Sequence[Run]) -> None:
    """Download what a report shows of these runs, if the output folder is remote."""
    if plan.remote is None:
        return
    items: list[Run | str] = [*runs, *dict.fromkeys(run.subject for run in runs)]
    for item in items:
        for artifact in scored_from(plan, item):
            artifact.fetch()
        if isinstance(item, Run):
            plan.checkpoint(item).fetch_file(Training.FILE)


def score_part(plan: Plan, part: TablePart) -> pd.DataFrame:
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
            if not math.isnan(value):
                yield _row(plan, run.method, run.subject, metric, value, sample.file) | {
                    "seed": run.seed,
                    "prompt": sample.prompt,
                    "category": sample.category,
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
            yield _row(plan, REAL, subject, metric, value, reference.file)


def _row(
    plan: Plan, method: str, subject: str, metric: Metric, value: float, image: str
) -> dict[str, Any]:
    """Return a row of a real image; a generated one also has a seed, a prompt and a category."""
    return {
        "suite": plan.suite.name,
        "method": method,
        "subject": subject,
        "class_noun": plan.subjects[subject].class_noun,
        "kind": plan.subjects[subject].kind,
        "seed": None,
        "prompt": None,
        "category": None,
        "image": image,
        "metric": metric.name,
        "value": float(value),
    }


def _real(plan: Plan, subject: str, role: str) -> NDArray[np.float32]:
    return _vectors(plan.real_features(subject, role), "images.npy")


def _vectors(features: Artifact, name: str) -> NDArray[np.float32]:
    import numpy as np

    vectors: NDArray[np.float32] = np.load(io.BytesIO(features.read(name)), allow_pickle=False)
    return vectors
