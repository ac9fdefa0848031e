"""Flags of a run: copies and collapses above a subject's ceiling, and images of one colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from dbbench.evaluation.encoder import UnitVectors
from dbbench.evaluation.flags import FLAGS, Flag, find_flags
from dbbench.evaluation.metric import Metric, evaluate_from, load_metric
from dbbench.evaluation.one_colour import say_of_one_colour
from dbbench.evaluation.scores import REAL
from dbbench.reports.page.limits import read_vectors
from dbbench.reports.results import Results
from dbbench.storage.run_folder import features_folder, real_features_folder, samples_of
from dbbench.suites.runs import Run, plan_runs


@dataclass(frozen=True)
class Flagged:
    """One flagged image of a run; of a collapsed prompt the first."""

    kind: str
    run: Run
    prompt: str
    number: int
    found: Flag


def read_flags(results: Results) -> dict[tuple[str, str], list[Flagged]]:
    """Return the flags of each method and metric.

    A score comes from the run's score table where the suite has the metric, else from the features
    of the encoder that the metric declares. Without either there is no entry.
    """
    expectation = results.leaderboard.expectation
    methods = [str(method) for method in results.leaderboard.ranking["method"] if method != REAL]
    found: dict[tuple[str, str], list[Flagged]] = {}
    for metric in map(load_metric, FLAGS):
        own = results.scores.loc[results.scores["metric"] == metric.name]
        tables = {
            key: table.set_index("image")["value"]
            for key, table in own.groupby(["method", "subject", "seed"], observed=True)
        }
        for subject in expectation.subjects:
            real = read_vectors(results.out / real_features_folder(subject, metric.role))
            for run in plan_runs(results.suite, [subject], methods, expectation.seeds):
                known = tables.get((run.method, run.subject, run.seed))
                flags = _run_flags(results.out, metric, run, real, known)
                if flags is not None:
                    found.setdefault((run.method, metric.name), []).extend(flags)
    return found


def count_of_one_colour(results: Results) -> dict[str, tuple[int, int]]:
    """Return how many images of each method are of one colour, and of how many that is known.

    A method without an entry has none that were looked at, as in runs of older versions.
    """
    expectation = results.leaderboard.expectation
    methods = [str(method) for method in results.leaderboard.ranking["method"] if method != REAL]
    runs = plan_runs(results.suite, expectation.subjects, methods, expectation.seeds)
    return _count_of_one_colour(results.out, results.key, tuple(runs))


def say_one_colour(results: Results) -> list[str]:
    """Return a line on each method that has images of one colour."""
    counts = count_of_one_colour(results)
    return [
        f"{say_of_one_colour(count, total, f'images of {method}')}; look at them before the scores"
        for method, (count, total) in counts.items()
        if count
    ]


@lru_cache(maxsize=8)
def _count_of_one_colour(out: Path, key: str, runs: tuple[Run, ...]) -> dict[str, tuple[int, int]]:
    """Count once for the same results; `key` is theirs."""
    found: dict[str, tuple[int, int]] = {}
    for run in runs:
        samples = samples_of(out, run)
        looked = [sample.one_colour for sample in samples.images] if samples else []
        known = [each for each in looked if each is not None]
        if known:
            count, total = found.get(run.method, (0, 0))
            found[run.method] = (count + sum(known), total + len(known))
    return found


def _run_flags(
    out: Path, metric: Metric, run: Run, real: UnitVectors | None, known: pd.Series[float] | None
) -> list[Flagged] | None:
    """Return the flags of one run; None if its features, or those of the real images, are missing.

    `known` are the scores in the score table, by file.
    """
    samples, images = samples_of(out, run), read_vectors(out / features_folder(run, metric.role))
    if samples is None or images is None or real is None or len(images) != len(samples.images):
        return None
    prompts = [sample.prompt for sample in samples.images]
    if known is None:
        values = evaluate_from(metric, prompts, images=lambda: images, references=lambda: real)
    else:
        files = [sample.file for sample in samples.images]
        values = np.asarray(known.reindex(files), dtype=np.float64)
    return [
        Flagged(metric.flag, run, prompts[flag.row], samples.images[flag.row].number, flag)
        for flag in find_flags(metric, prompts, values, images, real)
    ]
