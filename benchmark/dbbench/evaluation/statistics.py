"""Intervals and paired tests with the subject as the unit, for the leaderboard.

Images of one subject are similar, so 3,000 images are not 3,000 independent samples. A benchmark
predicts how a method performs on *other subjects*: every interval and test here resamples or flips
whole subjects (clusters), of which the paper has 30.

scipy loads slowly, so only the functions that need it import it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 9_999
POWER = 0.8
"""The probability of detecting a true difference, in `detectable_difference`."""
MIN_SUBJECTS = 5
"""With fewer subjects a bootstrap interval is wrong: simulated coverage at 3 subjects is 76%."""


@dataclass(frozen=True)
class Interval:
    """A 95% interval; without one, `low` and `high` are None and `reason` is given."""

    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Difference:
    """The mean paired difference a - b over subjects, with its interval and two-sided p-value."""

    mean: float
    interval: Interval
    p: float | None
    subjects: int
    p_holm: float | None = None
    """`p` adjusted for all comparisons in one call of `paired_differences`."""


def subject_interval(
    values: ArrayLike, *, weights: ArrayLike | None = None, seed: int = 0
) -> Interval:
    """Return the 95% bootstrap interval of the mean of per-subject values.

    With `weights` it is the interval of the weighted mean, such as the mean of all images if their
    number differs between subjects; weights are resampled together with their subjects.

    Expanded percentile bootstrap (Hesterberg, arXiv 1411.5279, section 4.2): the plain percentile
    interval is too short by about t/z * sqrt(n/(n-1)), which is 8% at 30 subjects and a third at 6.
    """
    from scipy import stats

    sample = _finite(values)
    if len(sample) < MIN_SUBJECTS:
        subjects = "subject" if len(sample) == 1 else "subjects"
        reason = (
            f"an interval needs at least {MIN_SUBJECTS} subjects, here {len(sample)} {subjects}"
        )
        return Interval(None, None, reason)
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]))
    shares = np.ones(len(sample)) if weights is None else _finite(weights)
    if shares.shape != sample.shape or not (shares > 0).all():
        raise ValueError("one positive weight for each subject is needed")
    result = stats.bootstrap(
        (sample * shares, shares),
        lambda sums, shares, axis: sums.sum(axis=axis) / shares.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=_expanded(len(sample)),
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Interval(float(interval.low), float(interval.high))


def paired_difference(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Difference:
    """Compare two methods on the same subjects, `a[i]` and `b[i]` being those of subject i.

    The p-value is that of the sign-flip permutation test: under the null hypothesis the two methods
    may be exchanged within each subject. All 2^n flips are tried where there are fewer than 10,000.
    With n subjects it cannot be below 2^(1-n): five subjects never reach 0.05.
    """
    from scipy import stats

    first, second = _finite(a), _finite(b)
    if first.shape != second.shape:
        raise ValueError(f"not paired: {len(first)} and {len(second)} subjects")
    if not len(first):
        return Difference(math.nan, Interval(None, None, "no subject in common"), None, 0)
    differences = first - second
    p: float | None = None
    if len(differences) > 1:
        test = stats.permutation_test(
            (first, second),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            n_resamples=RESAMPLES,
            vectorized=True,
            alternative="two-sided",
            random_state=np.random.default_rng(seed),
        )
        p = float(test.pvalue)
    interval = subject_interval(differences, seed=seed)
    return Difference(float(differences.mean()), interval, p, len(differences))


def paired_differences(pairs: Iterable[tuple[ArrayLike, ArrayLike]]) -> list[Difference]:
    """Compare each pair as `paired_difference` does, with p-values by Holm over all of them."""
    found = [paired_difference(a, b) for a, b in pairs]
    adjusted = holm([each.p for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, adjusted, strict=True)]


def detectable_difference(values: ArrayLike, *, comparisons: int = 1) -> float | None:
    """Return the smallest true difference that a two-sided test at 5% finds with the power POWER.

    `values` are per subject: differences between two methods, or one method's scores for comparison
    with a fixed number. Their spread is used as that of the population. The power is that of the t
    test (noncentral t); with ten subjects or more it is close to that of the permutation test. The
    level is shared equally between `comparisons` (Holm's first step). None for fewer subjects than
    an interval needs.
    """
    from scipy import optimize, stats

    sample = _finite(values)
    count = len(sample)
    if count < MIN_SUBJECTS:
        return None
    deviation = float(sample.std(ddof=1))
    critical = float(stats.t.isf((1 - CONFIDENCE) / comparisons / 2, count - 1))

    def lacking(shift: float) -> float:
        # The other tail, a significant difference the wrong way round, holds less than 1e-4.
        return float(stats.nct.sf(critical, count - 1, shift)) - POWER

    shift = optimize.brentq(lacking, 0.0, critical + 4.0)
    return float(shift) * deviation / math.sqrt(count)


def worse_by_chance(differences: ArrayLike, *, seed: int = 0) -> float:
    """Return how often flipped signs make the mean difference as low as it is, or lower.

    One-sided sign-flip permutation test; all 2^n flips are tried where there are fewer than 10,000.
    Differences that are all zero give 1.
    """
    sample = _finite(differences)
    if not np.any(sample):
        return 1.0
    if len(sample) <= 13:
        bits = np.arange(2 ** len(sample))[:, None] >> np.arange(len(sample)) & 1
        means = (1.0 - 2.0 * bits) @ sample / len(sample)
        # As low "up to rounding": sums in another order differ in the last digits.
        return float(np.mean(means <= sample.mean() + 1e-12))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RESAMPLES, len(sample)))
    as_low = np.count_nonzero(signs @ sample / len(sample) <= sample.mean() + 1e-12)
    return float((as_low + 1) / (RESAMPLES + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down adjusted p-values (Scand. J. Statist. 6, 1979); None stays None.

    If values below 0.05 are rejected, the probability of one or more false rejections among all
    comparisons is below 5%.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = highest
    return adjusted


def _expanded(count: int) -> float:
    """Return the level at which a percentile interval has about the width of a t interval."""
    from scipy import stats

    half = stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * math.sqrt(count / (count - 1))
    return float(1.0 - 2.0 * stats.norm.sf(half))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("one finite value for each subject is needed")
    return array
