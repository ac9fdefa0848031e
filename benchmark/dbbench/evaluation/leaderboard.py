"""Score table -> ranked table, per-subject means and paired differences (pure pandas)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dbbench.evaluation.decision import decide
from dbbench.evaluation.metric import Metric
from dbbench.evaluation.pairing import shared_rows
from dbbench.evaluation.scores import REAL
from dbbench.evaluation.statistics import subject_interval

NUMBERS = ["difference", "low", "high", "p", "p_holm"]
DIFFERENCE = ["a", "b", *NUMBERS, "decided", "subjects", "family", "comparisons"]
DIFFERENCE += ["reason", "left_out"]
"""Columns of a table of differences."""


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
    `differences`: a minus b by subject, interval, p, and p by Holm over its family, as
    `decision.py` defines them; a family is the metric's pairs of methods, or its pairs with the
    real images.
    """

    expectation: Expectation
    metrics: tuple[Metric, ...]
    ranking: pd.DataFrame
    subjects: pd.DataFrame
    differences: pd.DataFrame

    @property
    def reasons(self) -> list[str]:
        """Why an interval, a rank or a decision is missing, and what is not compared."""
        missing = self.ranking.loc[self.ranking["note"] != "", ["method", "note"]]
        lines = [f"{method} is not ranked: {note}" for method, note in missing.to_numpy()]
        told = [self.differences["left_out"], self.differences["reason"], self.ranking["reason"]]
        reasons = [reason for column in told for reason in column]
        return lines + sorted({reason for reason in reasons if reason})


def rank_methods(
    scores: pd.DataFrame, expectation: Expectation, metrics: Sequence[Metric]
) -> Leaderboard:
    """Average per subject, then over subjects; rank the complete methods on each metric.

    A method's rank is one more than the number of methods that are better by value *and* by the
    decision on their difference: methods that cannot be told apart share a rank.
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
    differences = _differences(scores, [REAL, *methods], metrics, expectation)
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


def compare_scores(
    tables: Mapping[str, pd.DataFrame],
    metric: Metric,
    mean_by_subject: Callable[[pd.DataFrame], pd.Series[float]],
) -> list[dict[str, Any]]:
    """Compare each pair of methods on the images that both have a counterpart of.

    `tables` are one metric's scores of each method. One row per pair, the better method first;
    pairs with the oracle are before all others. They are a family of their own, so that they do not
    reduce the power of the comparisons between methods. `by_subject` are the differences a - b of
    the subjects; `left_out` says which images had no counterpart, `reason` what cannot be told.
    """
    rows: list[dict[str, Any]] = []
    for oracle in (True, False):
        sides = [
            _pair(a, b, tables, metric, mean_by_subject)
            for a, b in combinations(tables, 2)
            if (a == REAL) == oracle
        ]
        family = f"{metric.label}, {'real images and each method' if oracle else 'all methods'}"
        pairs = [(side.means[:, 0], side.means[:, 1]) for side in sides]
        for side, result in zip(sides, decide(pairs, family=family), strict=True):
            rows.append(
                {
                    "a": side.a,
                    "b": side.b,
                    "difference": result.mean,
                    "low": result.interval.low,
                    "high": result.interval.high,
                    "p": result.p,
                    "p_holm": result.p_holm,
                    "decided": result.decided,
                    "subjects": result.subjects,
                    "family": result.family,
                    "comparisons": result.comparisons,
                    "reason": side.problem or result.interval.reason,
                    "left_out": side.left_out,
                    "by_subject": side.means[:, 0] - side.means[:, 1],
                }
            )
    return rows


@dataclass(frozen=True)
class _Pair:
    """Two methods, the better one first unless it is the oracle, on what both have."""

    a: str
    b: str
    means: NDArray[np.float64]
    """S x 2: each common subject's means of a and of b."""
    problem: str
    left_out: str


def _pair(
    a: str,
    b: str,
    tables: Mapping[str, pd.DataFrame],
    metric: Metric,
    mean_by_subject: Callable[[pd.DataFrame], pd.Series[float]],
) -> _Pair:
    shared = shared_rows(tables[a], tables[b])
    left_out = shared.note(a, b)
    if shared.problem:
        return _Pair(a, b, np.empty((0, 2)), f"{a} - {b}: {shared.problem}", left_out)
    sides = [mean_by_subject(shared.a), mean_by_subject(shared.b)]
    means = pd.concat(sides, axis=1, join="inner").to_numpy(dtype=float)
    worse = len(means) and (np.mean(means[:, 0] - means[:, 1]) < 0) == metric.higher_is_better
    if worse and a != REAL:
        return _Pair(b, a, means[:, ::-1], "", left_out)
    return _Pair(a, b, means, "", left_out)


def _differences(
    scores: pd.DataFrame,
    methods: Sequence[str],
    metrics: Sequence[Metric],
    expectation: Expectation,
) -> pd.DataFrame:
    """One row per metric and pair, as `compare_scores` orders them."""
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        found = dict(list(scores.loc[scores["metric"] == metric.name].groupby("method")))
        own = {method: found[method] for method in methods if method in found}
        common = {"suite": expectation.suite, "banner": expectation.banner or ""}
        common["metric"] = metric.name
        rows.extend(common | row for row in compare_scores(own, metric, _mean_by_subject))
    columns = ["suite", "banner", "metric", *DIFFERENCE]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(NUMBERS, "float64"))


def _mean_by_subject(scores: pd.DataFrame) -> pd.Series[float]:
    return scores.groupby("subject", sort=False, observed=True)["value"].mean()


def _add_ranks(
    ranking: pd.DataFrame, differences: pd.DataFrame, metric: Metric, complete: Sequence[str]
) -> None:
    own = differences.loc[differences["metric"] == metric.name]
    # The better method is first in each row, so `a` beats `b` where the difference is decided.
    wins = own.loc[own["decided"].astype(bool)]
    losses = wins.loc[wins["a"].isin(complete), "b"].value_counts()
    ranks = {method: 1 + int(losses.get(method, 0)) for method in complete}
    rank = ranking["method"].map(ranks).astype("Int64")
    ranking[f"{metric.name}_rank"] = rank
    ranking[f"{metric.name}_tied"] = rank.duplicated(keep=False) & rank.notna()
    numbers = [metric.name, f"{metric.name}_low", f"{metric.name}_high"]
    ranking[numbers] = ranking[numbers].astype("float64")
