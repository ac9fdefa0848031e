"""Can two methods be told apart? One rule for every table, comparison, report and gate.

The unit is the subject, because images of one subject are alike. Under the null hypothesis two
methods may be exchanged within each subject: the test flips the signs of the differences, all 2^n
flips up to 13 subjects, 9,999 random ones above. Holm's correction (Scand. J. Statist. 6, 1979)
holds the chance of one or more false decisions in a *family* below 5%. A family is what one
decision rests on: all pairs of methods on one metric of a table, or all lines of a gate.

The interval is the set of differences that the same test does not reject, at the level that Holm
gives to this comparison. So it excludes zero exactly where the comparison is decided. Its ends are
order statistics of the means of subsets (Hartigan, J. Amer. Statist. Assoc. 64, 1969).

scipy loads slowly, so only the function that needs it imports it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbbench.evaluation.statistics import Interval, finite

LEVEL = 0.05
"""The accepted chance of any false decision in a family."""
POWER = 0.8
"""The probability of detecting a true difference, in `detectable_difference`."""
FLIPS = 9_999
FLIPS_EACH = 400
"""At least so many flips for each comparison, so that the least p decides families of any size."""
EXACT = 13
"""Up to so many subjects all flips are tried."""
SIMULATED = 20
"""Up to so many subjects the power is simulated; above, that of the t test is close."""
TRIALS = 1_000
ROUNDING = 1e-12

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The mean paired difference a - b over subjects, and whether it can be told from zero."""

    mean: float
    interval: Interval
    """At the level of the decision; without ends, `reason` says why."""
    p: float | None
    """Of this comparison alone, two-sided; None where the family cannot be decided."""
    subjects: int
    p_holm: float | None = None
    """`p` adjusted for the family."""
    family: str = ""
    """What is decided together, in words."""
    comparisons: int = 1
    """How many comparisons the family has."""

    @property
    def decided(self) -> bool:
        """Whether the difference is told from zero."""
        return self.p_holm is not None and self.p_holm < LEVEL


def subjects_needed(comparisons: int) -> int:
    """Return how many subjects can decide a family: its smallest p is 2 * comparisons / 2^n."""
    return math.floor(math.log2(2 * max(comparisons, 1) / LEVEL)) + 1


def undecidable(subjects: int, comparisons: int, *, unit: str = "subject") -> str:
    """Return why a family cannot be decided with so many subjects; "" if it can."""
    needed = subjects_needed(comparisons)
    if subjects >= needed:
        return ""
    have = f"{subjects} {unit}{'' if subjects == 1 else 's'}"
    what = f"{comparisons} comparison{'' if comparisons == 1 else 's'}"
    return f"{have} cannot decide {what}; {needed} {unit}s can"


def decide(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]], *, family: str, seed: int = 0
) -> list[Difference]:
    """Compare each pair of methods, `a[i]` and `b[i]` being their means of subject i.

    All pairs are one family. Raises ValueError where values are missing or not paired.
    """
    differences = [_paired(a, b) for a, b in pairs]
    size = sum(len(each) > 0 for each in differences)
    decidable = [subjects_needed(size) <= len(each) for each in differences]
    flips = max(FLIPS, FLIPS_EACH * size)
    means = {
        i: _subset_means(differences[i], flips, seed) for i, can in enumerate(decidable) if can
    }
    p_values = {i: _two_sided(own) for i, own in means.items()}
    factors = _holm_factors(p_values)
    found = []
    for i, each in enumerate(differences):
        mean = float(each.mean()) if len(each) else math.nan
        if i in means:
            interval, p = _accepted(means[i], LEVEL / factors[i]), p_values[i]
            holm = min(1.0, factors[i] * p)
            found.append(Difference(mean, interval, p, len(each), holm, family, size))
        else:
            reason = undecidable(len(each), size) if len(each) else "no subject in common"
            nothing = Interval(None, None, reason)
            found.append(Difference(mean, nothing, None, len(each), None, family, size))
    return found


def detectable_difference(values: ArrayLike, *, comparisons: int = 1) -> float | None:
    """Return the smallest true difference that is decided with the power POWER.

    `values` are per subject: differences between two methods, or one method's scores for comparison
    with a fixed number. Their spread is taken for that of normally distributed subjects. The level
    is shared equally between `comparisons` (Holm's first step). None where so many subjects cannot
    decide so many comparisons.
    """
    sample = finite(values)
    if undecidable(len(sample), comparisons):
        return None
    return _detectable_effect(len(sample), comparisons) * float(sample.std(ddof=1))


def _paired(a: ArrayLike, b: ArrayLike) -> Numbers:
    first, second = finite(a), finite(b)
    if first.shape != second.shape:
        raise ValueError(f"not paired: {len(first)} and {len(second)} subjects")
    return first - second


@lru_cache(maxsize=2)
def _members(count: int, flips: int, seed: int) -> NDArray[np.bool_]:
    """Return non-empty subsets of `count` subjects, one a row: all, or `flips` random ones."""
    if count <= EXACT:
        return (np.arange(1, 2**count)[:, None] >> np.arange(count) & 1).astype(bool)
    members = np.random.default_rng(seed).random((flips, count)) < 0.5
    return members[members.any(axis=1)]


def _subset_means(differences: Numbers, flips: int, seed: int) -> Numbers:
    """Return the sorted means of subsets: flipping a subset's signs raises the mean if its is < 0.

    So the share of them below a value is the one-sided p-value of that value. What is zero but for
    rounding is zero, for interval and p-value alike.
    """
    members = _members(len(differences), flips, seed)
    means = np.sort(members @ differences / members.sum(axis=1))
    means[np.abs(means) < ROUNDING * max(1.0, float(np.abs(means).max()))] = 0.0
    return means


def _two_sided(means: Numbers) -> float:
    """Return the p-value of no difference; the unflipped signs count on both sides."""
    flips = len(means) + 1
    below = 1 + np.searchsorted(means, 0.0, side="right")
    above = flips - np.searchsorted(means, 0.0, side="left")
    return float(min(1.0, 2 * min(below, above) / flips))


def _accepted(means: Numbers, level: float) -> Interval:
    """Return the differences that the test does not reject at `level`."""
    rank = math.ceil(level * (len(means) + 1) / 2 - 1 - 1e-9)
    return Interval(float(means[rank - 1]), float(means[-rank]))


def _holm_factors(p_values: Mapping[int, float]) -> dict[int, float]:
    """Return by what Holm's step-down procedure multiplies each p-value."""
    factors, highest = {}, 0.0
    for rank, (i, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, (len(p_values) - rank) * p)
        factors[i] = highest / p
    return factors


@cache
def _detectable_effect(count: int, comparisons: int) -> float:
    """Return the detectable mean in standard deviations of the subjects."""
    from scipy import optimize, stats

    level = LEVEL / comparisons
    if count > SIMULATED:
        critical = float(stats.t.isf(level / 2, count - 1))

        def lacking(shift: float) -> float:
            # The other tail, a significant difference the wrong way round, holds less than 1e-4.
            return float(stats.nct.sf(critical, count - 1, shift)) - POWER

        return float(optimize.brentq(lacking, 0.0, critical + 4.0)) / math.sqrt(count)
    members = _members(count, FLIPS, 0).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(TRIALS, count)).astype(np.float32)
    sums, sizes = noise @ members.T, members.sum(axis=1)
    # A trial is decided if fewer than `allowed` subsets have a negative sum: the shift at which
    # that happens is the order statistic of the subsets' means, with the sign changed.
    rank = math.ceil(level * (len(members) + 1) / 2 - 1 - 1e-9)
    shifts = -np.partition(sums / sizes, rank - 1, axis=1)[:, rank - 1]
    return float(np.quantile(shifts, POWER))
