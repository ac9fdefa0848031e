"""Votes -> verdicts and shares, with intervals clustered by rater and by pair; `analyse` calls it.

Raters differ and pairs differ, so 1,800 answers are not 1,800 independent draws. Two answers are
dependent if they share the rater or the pair; two verdicts are dependent if they share a rater.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

CONFIDENCE = 0.95
ANSWERS = ("first", "second", "undecided")
FIRST, SECOND, UNDECIDED = range(3)
Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
TIE_RULE = (
    "A pair goes to the answer with the most votes; where two or more answers share the most votes,"
    " it is undecided."
)


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] with intervals, None if undefined.

    `low` to `high` is its own 95% interval; `low_all` to `high_all` holds for the three shares of a
    row together with 95% (Bonferroni).
    """

    share: float
    low: float | None
    high: float | None
    low_all: float | None
    high_all: float | None


@dataclass(frozen=True)
class Votes:
    """Answers as numbers: answer i is `choice[i]` (see ANSWERS) of `rater[i]` on `pair[i]`.

    Raters and pairs are numbered from 0 without gaps.
    """

    rater: Codes
    pair: Codes
    choice: Codes

    @property
    def counts(self) -> Codes:
        """Pairs x 3: the number of raters who gave each answer."""
        table = np.zeros((int(self.pair.max()) + 1, 3), dtype=np.int64)
        np.add.at(table, (self.pair, self.choice), 1)
        return table


def verdicts(counts: Codes) -> Codes:
    """Return each pair's verdict by majority vote, N x 3 -> N; ties by `TIE_RULE`.

    The paper does not define how it resolves a three-way tie.
    """
    most = counts.max(axis=1, keepdims=True)
    winner = counts.argmax(axis=1)
    tied = (counts == most).sum(axis=1) > 1
    return np.where(tied, UNDECIDED, winner)


@dataclass(frozen=True)
class Shares:
    """A row of the paper's second table, and the first share minus the second with its interval."""

    first: Share
    second: Share
    undecided: Share
    difference: float
    difference_low: float | None
    difference_high: float | None


def majority_shares(votes: Votes) -> Shares:
    """Return the shares of pairs by majority vote, the paper's second table.

    The variance sums the products of residuals over all pairs of pairs that share a rater (after
    Aronow, Samii and Assenova, arXiv 1312.3398). It is at least that of independent pairs.
    """
    verdict = verdicts(votes.counts)
    count = len(verdict)
    ones = np.ones(len(votes.pair))
    raters = int(votes.rater.max()) + 1
    judged = sparse.csr_matrix((ones, (votes.rater, votes.pair)), shape=(raters, count))
    related = sparse.csr_matrix(judged.T @ judged)
    related.data = np.ones_like(related.data)

    def variance(values: Floats) -> float | None:
        if count < 2:
            return None
        residual = values - values.mean()
        total = max(float(residual @ residual), float(residual @ (related @ residual)))
        return total / (count * (count - 1))

    return _shares(verdict, variance, clusters=min(raters, count), count=count)


def raw_shares(votes: Votes) -> Shares:
    """Return the shares of answers; two-way clustered variance (Cameron, Gelbach and Miller, 2011).

    It is at least the variance clustered by raters alone, and that clustered by pairs alone.
    """
    raters, pairs = int(votes.rater.max()) + 1, int(votes.pair.max()) + 1

    def variance(values: Floats) -> float | None:
        return clustered_variance(values, votes) if raters > 1 and pairs > 1 else None

    return _shares(votes.choice, variance, clusters=min(raters, pairs), count=pairs)


def clustered_variance(values: Floats, votes: Votes) -> float:
    """Return the variance of the mean of one value per answer, clustered by rater and by pair."""
    from statsmodels.regression.linear_model import OLS

    model = OLS(values, np.ones(len(values)))
    groups = (np.column_stack([votes.rater, votes.pair]), votes.rater, votes.pair)
    fits = [model.fit(cov_type="cluster", cov_kwds={"groups": group}) for group in groups]
    return max(float(fit.cov_params()[0, 0]) for fit in fits)


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` independent draws (J. Am. Stat. Assoc. 22)."""
    square = quantile**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    half *= quantile / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _shares(
    codes: Codes, variance: Callable[[Floats], float | None], *, clusters: int, count: int
) -> Shares:
    hits = [(codes == answer).astype(np.float64) for answer in (FIRST, SECOND, UNDECIDED)]
    first, second, undecided = (
        _share(float(hit.mean()), variance(hit), clusters, count) for hit in hits
    )
    difference = hits[FIRST] - hits[SECOND]
    value, spread = float(difference.mean()), variance(difference)
    low = high = None
    if spread is not None and clusters > 1:
        half = _quantile((1 - CONFIDENCE) / 2, clusters) * math.sqrt(spread)
        low, high = max(-1.0, value - half), min(1.0, value + half)
    return Shares(first, second, undecided, value, low, high)


def _share(value: float, variance: float | None, clusters: int, count: int) -> Share:
    """Return Wilson's interval at the number of independent draws that has this variance."""
    if variance is None or clusters < 2:
        return Share(value, None, None, None, None)
    spread = value * (1 - value)
    effective = count if variance <= 0 or spread <= 0 else spread / variance
    tail = (1 - CONFIDENCE) / 2
    one, all_ = (_quantile(p, clusters) for p in (tail, tail / len(ANSWERS)))
    return Share(value, *wilson(value, effective, one), *wilson(value, effective, all_))


def _quantile(tail: float, clusters: int) -> float:
    return float(stats.t.isf(tail, clusters - 1))
