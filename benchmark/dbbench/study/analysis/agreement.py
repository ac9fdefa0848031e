"""Agreement among raters, and of automatic metrics with raters; `analyse` calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from dbbench.seeds import stable_seed
from dbbench.study.analysis.shares import (
    CONFIDENCE,
    FIRST,
    SECOND,
    UNDECIDED,
    Codes,
    Floats,
    Votes,
    verdicts,
)

RESAMPLES = 1_000


def krippendorff_alpha(counts: Codes, *, seed: int = 0) -> tuple[float, float, float] | None:
    """Return alpha (nominal) with its 95% interval, bootstrap over pairs; None if undefined.

    `counts` is pairs x 3. Alpha is 1 if all raters agree, 0 if they agree as often as by chance.
    """
    import krippendorff

    shared = counts[counts.sum(axis=1) > 1]
    if len(shared) < 2 or (shared.sum(axis=0) > 0).sum() < 2:
        return None

    def alpha(rows: Codes) -> float:
        if (rows.sum(axis=0) > 0).sum() < 2:
            return 1.0
        return float(krippendorff.alpha(value_counts=rows, level_of_measurement="nominal"))

    rng = np.random.default_rng(stable_seed("study alpha", seed))
    draws = [alpha(shared[rng.integers(len(shared), size=len(shared))]) for _ in range(RESAMPLES)]
    return (alpha(shared), *_interval(draws))


def metric_agreement(
    counts: Codes,
    images: Sequence[tuple[str, str]],
    scores: pd.DataFrame,
    higher_is_better: Mapping[str, bool],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per metric: how well its differences predict people's preferences.

    `images` are the first and the second image of each pair, `scores` has image, metric, value.
    For each pair, x is the metric's value of the first image minus that of the second (negated if
    lower is better), and y is the share of raters for the first minus that for the second.
    `pearson` and `rank` (Spearman's) count every pair in both orders, so that the order of the two
    images has no effect. `accuracy` is the share of pairs decided by majority in which the metric
    prefers the same image; a tie of the metric counts half. Intervals: 95%, bootstrap over pairs.
    """
    values = scores.set_index(["metric", "image"])["value"]
    y = (counts[:, FIRST] - counts[:, SECOND]) / counts.sum(axis=1)
    verdict = verdicts(counts)
    rows = []
    for metric in scores["metric"].drop_duplicates():
        own = values.loc[metric]
        first = own.reindex([a for a, _ in images]).to_numpy(dtype=np.float64)
        second = own.reindex([b for _, b in images]).to_numpy(dtype=np.float64)
        known = np.isfinite(first) & np.isfinite(second)
        if known.sum() < 3:
            continue
        sign = 1.0 if higher_is_better.get(str(metric), True) else -1.0
        rows.append(
            {"metric": str(metric), "pairs": int(known.sum())}
            | _compare(sign * (first - second)[known], y[known], verdict[known], seed)
        )
    columns = ["metric", "pairs", "decided"]
    columns += [
        f"{k}{end}" for k in ("pearson", "rank", "accuracy") for end in ("", "_low", "_high")
    ]
    return pd.DataFrame(rows, columns=columns)


def _compare(x: Floats, y: Floats, verdict: Codes, seed: int) -> dict[str, float | int]:
    decided = verdict != UNDECIDED
    wanted = np.where(verdict == FIRST, 1.0, -1.0)

    def accuracy(rows: Codes) -> float:
        rows = rows[decided[rows]]
        if not len(rows):
            return float("nan")
        right = x[rows] * wanted[rows]
        return float(np.mean((right > 0) + 0.5 * (right == 0)))

    measures: dict[str, Callable[[Codes], float]] = {
        "pearson": lambda rows: _cosine(x[rows], y[rows]),
        "rank": lambda rows: _cosine(_ranks(x[rows]), _ranks(y[rows])),
        "accuracy": accuracy,
    }
    rng = np.random.default_rng(stable_seed("study agreement", seed))
    everything = np.arange(len(x))
    draws = [rng.integers(len(x), size=len(x)) for _ in range(RESAMPLES)]
    result: dict[str, float | int] = {"decided": int(decided.sum())}
    for name, measure in measures.items():
        low, high = _interval([measure(rows) for rows in draws])
        result |= {name: measure(everything), f"{name}_low": low, f"{name}_high": high}
    return result


def _cosine(x: Floats, y: Floats) -> float:
    """Pearson's correlation of (x, -x) with (y, -y), whose means are zero."""
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def _ranks(x: Floats) -> Floats:
    """Return the centred ranks of x among (x, -x)."""
    ranks: Floats = stats.rankdata(np.concatenate([x, -x]))[: len(x)] - (2 * len(x) + 1) / 2
    return ranks


def _interval(draws: Sequence[float]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    known = np.asarray(draws)[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def strengths(
    first: Sequence[str], second: Sequence[str], votes: Votes
) -> tuple[pd.DataFrame, str]:
    """Return Bradley-Terry strengths of three or more methods, and the reason if undefined.

    `first` and `second` name the methods of each answer; an undecided answer is half a win for
    each. The fit is a logistic regression of the answers on the methods; intervals are clustered by
    rater and by pair. Strengths are log odds against the average method, `wins` the probability to
    win against it.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    methods = sorted({*first, *second})
    table = pd.DataFrame(columns=["method", "strength", "low", "high", "wins"])
    if len(methods) < 3:
        return table, ""
    number = {method: i for i, method in enumerate(methods)}
    a = np.array([number[m] for m in first])
    b = np.array([number[m] for m in second])
    points = np.choose(votes.choice, [1.0, 0.0, 0.5])
    if (reason := _no_strengths(a, b, points, methods)) is not None:
        return table, reason
    rows = np.arange(len(points))
    design = np.zeros((len(points), len(methods)))
    design[rows, a] += 1
    design[rows, b] -= 1
    fit = GLM(points, design[:, 1:], family=Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([votes.rater, votes.pair])}
    )
    # The first method is the zero of the fit; the average is the zero of the table.
    centre = np.eye(len(methods)) - 1 / len(methods)
    values = centre[:, 1:] @ fit.params
    spread = np.sqrt(np.maximum(np.diag(centre[:, 1:] @ fit.cov_params() @ centre[:, 1:].T), 0))
    clusters = min(int(votes.rater.max()), int(votes.pair.max()))
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, max(clusters, 1))) * spread
    table = pd.DataFrame(
        {
            "method": methods,
            "strength": values,
            "low": values - half,
            "high": values + half,
            "wins": 1 / (1 + np.exp(-values)),
        }
    )
    return table.sort_values("strength", ascending=False, ignore_index=True), ""


def _no_strengths(a: Codes, b: Codes, points: Floats, methods: Sequence[str]) -> str | None:
    """Return why strengths would be infinite: wins must link all methods in both directions."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    wins = np.zeros((len(methods), len(methods)))
    np.add.at(wins, (a, b), points)
    np.add.at(wins, (b, a), 1 - points)
    groups, group = connected_components(csr_matrix(wins), directed=True, connection="strong")
    if groups == 1:
        return None
    apart = [method for method, own in zip(methods, group, strict=True) if own == group[0]]
    return (
        f"no Bradley-Terry strengths: {', '.join(apart)} and the others are not linked by wins in"
        " both directions (Ford, 1957)"
    )
