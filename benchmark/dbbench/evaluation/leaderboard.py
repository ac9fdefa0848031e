"""Score table -> ranked table, per-subject means and paired differences (pure pandas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dbbench.evaluation.metric import Metric
from dbbench.evaluation.scores import REAL
from dbbench.evaluation.statistics import paired_differences, subject_interval

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Expectation:
    """The content of a complete score table, to find and show what is missing."""

    suite: str
    banner: str | None
    subjects: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    images_per_run: int | None = None
    """Images of one run, 25 prompts x 4 in the paper; None where it depends on the subject."""


@dataclass(frozen=True)
class Leaderboard:
    """Three tables with the choices behind them; each row carries the suite's banner.

    `ranking`: one row per method, the oracle first, then by the first metric; for each metric the
    mean over subjects of the mean over images, `_low`, `_high` (95% interval, clustered by
    subject), `_rank` (missing for the oracle and for methods with missing runs) and `_tied`.
    `subjects`: method, subject, metric, mean over prompts, images and seeds, and their count.
    `differences`: a minus b by subject, interval, p, and p by Holm over the metric's pairs of
    methods (over its pairs with the oracle for those).
    """

    expectation: Expectation
    metrics: tuple[Metric, ...]
    ranking: pd.DataFrame
    subjects: pd.DataFrame
    differences: pd.DataFrame

    @property
    def reasons(self) -> list[str]:
        """Why an interval or a rank is missing, one sentence each."""
        missing = self.ranking.loc[self.ranking["note"] != "", ["method", "note"]]
        lines = [f"{method} is not ranked: {note}" for method, note in missing.to_numpy()]
        reasons = self.differences["reason"].tolist() + self.ranking["reason"].tolist()
        return lines + sorted({reason for reason in reasons if reason})


def rank_methods(
    scores: pd.DataFrame, expectation: Expectation, metrics: Sequence[Metric]
) -> Leaderboard:
    """Average per subject, then over subjects; rank the complete methods on each metric.

    A method's rank is one more than the number of methods that are better by value *and* by the
    paired test (Holm-adjusted p < 0.05): methods without a significant difference share a rank.
    """
    real = scores["method"] == REAL
    scores = scores.loc[
        scores["subject"].isin(expectation.subjects)
        & (real | scores["seed"].isin(expectation.seeds))
    ]
    subjects = _subject_means(scores, expectation)
    found = [m for m in subjects["method"].unique() if m not in {REAL, *expectation.methods}]
    methods = [*expectation.methods, *found]
    means = {
        (str(method), str(metric)): group.set_index("subject")["mean"]
        for (method, metric), group in subjects.groupby(["method", "metric"], sort=False)
    }
    notes = {m: _missing_runs(scores, expectation, metrics, m) for m in methods}
    complete = [m for m in methods if not notes[m]]
    differences = _differences(means, [REAL, *methods], metrics, expectation)
    ranking = pd.DataFrame(
        [
            _row(method, means, scores, expectation, metrics, notes.get(method, ""))
            for method in [REAL, *methods]
        ]
    )
    for metric in metrics:
        _add_ranks(ranking, differences, metric, complete)
    ranking["oracle"] = ranking["method"] == REAL
    leading = metrics[0]
    ranking = ranking.sort_values(
        ["oracle", leading.name],
        ascending=[False, not leading.higher_is_better],
        kind="stable",
        na_position="last",
    ).reset_index(drop=True)
    return Leaderboard(expectation, tuple(metrics), ranking, subjects, differences)


def _subject_means(scores: pd.DataFrame, expectation: Expectation) -> pd.DataFrame:
    """One row per method, subject and metric."""
    keys = ["method", "subject", "class_noun", "kind", "metric"]
    table = scores.groupby(keys, sort=False, observed=True)["value"]
    means = table.agg(mean="mean", images="size").reset_index()
    means.insert(0, "suite", expectation.suite)
    means.insert(1, "banner", expectation.banner or "")
    return means


def _row(
    method: str,
    means: dict[tuple[str, str], pd.Series[float]],
    scores: pd.DataFrame,
    expectation: Expectation,
    metrics: Sequence[Metric],
    note: str,
) -> dict[str, object]:
    own = scores.loc[scores["method"] == method]
    images = own.drop_duplicates(["subject", "seed", "prompt", "image"])
    row: dict[str, object] = {
        "suite": expectation.suite,
        "banner": expectation.banner or "",
        "method": method,
        "subjects": own["subject"].nunique(),
        "subjects_planned": len(expectation.subjects),
        "images": len(images),
        "note": note,
        "reason": "",
    }
    for metric in metrics:
        values = means.get((method, metric.name), pd.Series(dtype=float))
        interval = subject_interval(values)
        row[metric.name] = float(values.mean()) if len(values) else None
        row[f"{metric.name}_low"] = interval.low
        row[f"{metric.name}_high"] = interval.high
        if len(values):
            row["reason"] = interval.reason
    return row


def _missing_runs(
    scores: pd.DataFrame, expectation: Expectation, metrics: Sequence[Metric], method: str
) -> str:
    """Return the number of complete runs, such as "28/30 subjects"; "" if all are complete."""
    own = scores.loc[scores["method"] == method]
    keys = ["subject", "seed", "metric", "kind"]
    counts = own.groupby(keys, observed=True).size().reset_index(name="images")
    # Only the table has the number of class images, and of images per prompt.
    counts["expected"] = counts.groupby(["kind", "metric"])["images"].transform("max")
    if expectation.images_per_run:
        of_prompts = [m.name for m in metrics if m.compares in {"references", "text"}]
        counts.loc[counts["metric"].isin(of_prompts), "expected"] = expectation.images_per_run
    whole = counts.loc[counts["images"] >= counts["expected"], ["subject", "seed", "metric"]]
    done = set(whole.itertuples(index=False, name=None))
    names = [metric.name for metric in metrics]
    wanted = [name for name in names if name in set(counts["metric"])] or names
    runs = [(s, seed) for s in expectation.subjects for seed in expectation.seeds]
    complete = {run for run in runs if all((*run, name) in done for name in wanted)}
    if len(complete) == len(runs):
        return ""
    return f"{len(complete)}/{len(runs)} {'runs' if len(expectation.seeds) > 1 else 'subjects'}"


def compare_means(
    means: Mapping[str, pd.Series[float]], *, higher_is_better: bool
) -> list[dict[str, Any]]:
    """Compare each pair of methods on their common subjects; `means`: method -> mean by subject.

    One row per pair, the better method first; pairs with the oracle are before all others. Holm's
    correction is separate for pairs with the oracle, so that they do not reduce the power of the
    comparisons between methods. `by_subject` are the differences a - b of the subjects.
    """
    rows: list[dict[str, Any]] = []
    for oracle in (True, False):
        sides: list[tuple[str, str, NDArray[np.float64]]] = []
        for a, b in combinations(means, 2):
            if (a == REAL) != oracle:
                continue
            both = pd.concat([means[a], means[b]], axis=1, join="inner").to_numpy()
            worse = len(both) and (np.mean(both[:, 0] - both[:, 1]) < 0) == higher_is_better
            sides.append((b, a, both[:, ::-1]) if worse and not oracle else (a, b, both))
        found = paired_differences((both[:, 0], both[:, 1]) for _, _, both in sides)
        for (a, b, both), result in zip(sides, found, strict=True):
            rows.append(
                {
                    "a": a,
                    "b": b,
                    "difference": result.mean,
                    "low": result.interval.low,
                    "high": result.interval.high,
                    "p": result.p,
                    "p_holm": result.p_holm,
                    "subjects": result.subjects,
                    "reason": result.interval.reason,
                    "by_subject": both[:, 0] - both[:, 1],
                }
            )
    return rows


def _differences(
    means: dict[tuple[str, str], pd.Series[float]],
    methods: Sequence[str],
    metrics: Sequence[Metric],
    expectation: Expectation,
) -> pd.DataFrame:
    """One row per metric and pair, as `compare_means` orders them."""
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        own = {m: means[m, metric.name] for m in methods if (m, metric.name) in means}
        common = {"suite": expectation.suite, "banner": expectation.banner or ""}
        common["metric"] = metric.name
        found = compare_means(own, higher_is_better=metric.higher_is_better)
        rows.extend(common | row for row in found)
    columns = ["suite", "banner", "metric", "a", "b", "difference", "low", "high", "p", "p_holm"]
    table = pd.DataFrame(rows, columns=[*columns, "subjects", "reason"])
    numbers = ["difference", "low", "high", "p", "p_holm"]
    return table.astype(dict.fromkeys(numbers, "float64"))


def _add_ranks(
    ranking: pd.DataFrame, differences: pd.DataFrame, metric: Metric, complete: Sequence[str]
) -> None:
    own = differences.loc[differences["metric"] == metric.name]
    # The better method is first in each row, so `a` beats `b` if the test is significant.
    wins = own.loc[own["p_holm"] < SIGNIFICANCE]
    losses = wins.loc[wins["a"].isin(complete), "b"].value_counts()
    ranks = {method: 1 + int(losses.get(method, 0)) for method in complete}
    rank = ranking["method"].map(ranks).astype("Int64")
    ranking[f"{metric.name}_rank"] = rank
    ranking[f"{metric.name}_tied"] = rank.duplicated(keep=False) & rank.notna()
    numbers = [metric.name, f"{metric.name}_low", f"{metric.name}_high"]
    ranking[numbers] = ranking[numbers].astype("float64")
