"""Power: how many subjects and images are needed to detect a known share of bad images.

Two drawn methods are compared as on the leaderboard: by the paired sign-flip test over subjects at
5%, two-sided. One makes good images only; of the other's images, a share has a known defect. Pure
numpy on the scores of `truth.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dbbench.evaluation.decision import LEVEL, POWER
from dbbench.evaluation.metric import Metric

SUBJECTS = (5, 10, 20, 30)
IMAGES = (1, 2, 4)
"""Images per prompt."""
DEFECTS = ("other identity", "hallucinated", "wrong place", "copied")
SPREADS = ("evenly", "by subject")
"""How bad images are distributed: with the same share for every subject, or with shares from
Beta(2 s, 2 (1 - s)), so that some subjects have almost none and others many."""
TRIALS = 400
FLIPS = 999
FINEST = 0.005

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """One metric's scores by subject: mean and variance of good and bad images."""

    good: Numbers
    loss: Numbers
    """S: score loss of a bad image."""
    loss_variance: Numbers
    """S: variance of the loss over prompts."""
    good_variance: Numbers
    """S: variance over images of one prompt."""
    bad_variance: Numbers
    prompts: int


def detectable_shares(
    scores: pd.DataFrame, metrics: Sequence[Metric], *, trials: int = TRIALS
) -> pd.DataFrame:
    """Return the smallest share of bad images that is detected with a power of 80%.

    One row per metric, defect, spread, number of subjects and of images per prompt; NaN if the
    power is below 80% even when all images are bad.
    """
    rows = []
    for metric, defect in product(metrics, DEFECTS):
        pool = pool_of(scores, metric, defect)
        if pool is None:
            continue
        for spread, subjects, images in product(SPREADS, SUBJECTS, IMAGES):
            share = smallest_share(
                pool,
                subjects=subjects,
                images=images,
                uneven=spread != SPREADS[0],
                trials=trials,
            )
            rows.append((metric.name, defect, spread, subjects, images, share))
    columns = ["metric", "defect", "spread", "subjects", "images", "share"]
    return pd.DataFrame(rows, columns=columns).astype({"share": "float64"})


def pool_of(scores: pd.DataFrame, metric: Metric, defect: str) -> Pool | None:
    """Return the scores of good and bad images; None if the metric has no scores for them."""
    own = scores.loc[scores["metric"] == metric.name]
    good, bad = (
        own.loc[own["kind"] == kind].pivot_table(
            index=["subject", "prompt"], columns="number", values="value"
        )
        for kind in ("perfect", defect)
    )
    both = good.index.intersection(bad.index)
    if both.empty:
        return None
    good, bad = good.loc[both], bad.loc[both]
    sign = 1.0 if metric.higher_is_better else -1.0
    loss = sign * (good.mean(axis=1) - bad.mean(axis=1))
    names = good.index.get_level_values("subject")
    by = loss.groupby(names, sort=False)
    return Pool(
        good=(sign * good.mean(axis=1)).groupby(names, sort=False).mean().to_numpy(),
        loss=by.mean().to_numpy(),
        loss_variance=np.asarray(by.var(ddof=0), dtype=float),
        good_variance=_within(good),
        bad_variance=_within(bad),
        prompts=int(by.size().min()),
    )


def _within(table: pd.DataFrame) -> Numbers:
    """Return each subject's variance among images of one prompt; 0 if each prompt has one image."""
    variance = table.var(axis=1, ddof=1).fillna(0.0)
    means: Numbers = (
        variance.groupby(table.index.get_level_values("subject"), sort=False).mean().to_numpy()
    )
    return means


def smallest_share(
    pool: Pool, *, subjects: int, images: int, uneven: bool, trials: int = TRIALS
) -> float:
    """Return the smallest share detected with a power of 80%, to 0.5 points; NaN if none is."""

    def found(share: float) -> bool:
        power = detection_rate(
            pool, share, subjects=subjects, images=images, uneven=uneven, trials=trials
        )
        return power >= POWER

    if not found(1.0):
        return float("nan")
    low, high = 0.0, 1.0
    while high - low > FINEST:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def detection_rate(
    pool: Pool,
    share: float,
    *,
    subjects: int,
    images: int,
    uneven: bool = False,
    trials: int = TRIALS,
) -> float:
    """Return how often the method with a share of bad images is detected as worse.

    Each trial draws subjects, the number of bad images of each, and both methods' means. The means
    are drawn from a normal distribution, since they average 25 images or more.
    """
    rng = np.random.default_rng(0)
    size = (trials, subjects)
    who = rng.integers(len(pool.good), size=size)
    count = pool.prompts * images
    shares = np.full(size, share)
    if uneven and 0 < share < 1:
        shares = rng.beta(2 * share, 2 * (1 - share), size=size)
    bad = rng.binomial(count, shares)
    good_noise, bad_noise = pool.good_variance[who], pool.bad_variance[who]
    variance = count * good_noise + (count - bad) * good_noise + bad * bad_noise
    # Both methods have the same prompts; only which images are bad is random.
    variance += bad * (1 - bad / count) * pool.loss_variance[who]
    differences = bad / count * pool.loss[who] + rng.normal(size=size) * np.sqrt(variance) / count
    return float(np.mean(_p_values(differences, rng) < LEVEL) if subjects > 1 else 0.0)


def _p_values(differences: Numbers, rng: np.random.Generator) -> Numbers:
    """Trials x subjects -> two-sided sign-flip p-value of each trial; 1 if the sign is wrong."""
    count = differences.shape[1]
    if count <= 9:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        extra = 0
    else:
        signs = rng.choice([-1.0, 1.0], size=(FLIPS, count))
        extra = 1
    observed = differences.sum(axis=1)
    as_far = (np.abs(differences @ signs.T) >= np.abs(observed)[:, None] - 1e-12).sum(axis=1)
    p: Numbers = (as_far + extra) / (len(signs) + extra)
    return np.where(observed > 0, p, 1.0)
