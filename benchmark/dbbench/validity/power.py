"""Power: how many subjects and images it takes to find a known share of bad images.

Two drawn methods are compared as the leaderboard compares methods: the paired sign-flip test over
subjects at 5%, two-sided. One makes good pictures only; of the other's, a share has a known defect.
Pure numpy on the scores of such pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dbbench.evaluation.metric import Metric
from dbbench.evaluation.statistics import CONFIDENCE, POWER

SUBJECTS = (5, 10, 20, 30)
IMAGES = (1, 2, 4)
"""For each prompt."""
DEFECTS = ("other identity", "hallucinated", "wrong place", "copied")
SPREADS = ("evenly", "by subject")
"""How the bad images lie: every subject has the same share, or shares differ as much as
Beta(2 s, 2 (1 - s)) does, so that some subjects have hardly any and others many."""
TRIALS = 400
FLIPS = 999
FINEST = 0.005

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """One metric's scores by subject: mean and variance of good and bad images."""

    good: Numbers
    loss: Numbers
    """S: how much a bad image loses."""
    loss_variance: Numbers
    """S: of the loss from prompt to prompt."""
    good_variance: Numbers
    """S: of images of one prompt."""
    bad_variance: Numbers
    prompts: int


def detectable_shares(
    scores: pd.DataFrame, metrics: Sequence[Metric], *, trials: int = TRIALS, seed: int = 0
) -> pd.DataFrame:
    """Return the smallest share of bad images that is found with a chance of 80%.

    One row per metric, defect, spread, number of subjects and of images per prompt; NaN where even
    all images being bad is found less often.
    """
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        for defect in DEFECTS:
            pool = pool_of(scores, metric, defect)
            if pool is None:
                continue
            for spread in SPREADS:
                for subjects in SUBJECTS:
                    for images in IMAGES:
                        share = smallest_share(
                            pool,
                            subjects=subjects,
                            images=images,
                            uneven=spread != SPREADS[0],
                            trials=trials,
                            seed=seed,
                        )
                        rows.append(
                            {
                                "metric": metric.name,
                                "defect": defect,
                                "spread": spread,
                                "subjects": subjects,
                                "images": images,
                                "share": share,
                            }
                        )
    return pd.DataFrame(rows).astype({"share": "float64"})


def pool_of(scores: pd.DataFrame, metric: Metric, defect: str) -> Pool | None:
    """Return what good and bad images score; None where the metric says nothing of them."""
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
    """Return each subject's variance among images of one prompt; 0 where each has one."""
    variance = table.var(axis=1, ddof=1).fillna(0.0)
    means: Numbers = (
        variance.groupby(table.index.get_level_values("subject"), sort=False).mean().to_numpy()
    )
    return means


def smallest_share(
    pool: Pool, *, subjects: int, images: int, uneven: bool, trials: int = TRIALS, seed: int = 0
) -> float:
    """Return the smallest share found with a chance of 80%, to half a percent; NaN for none."""

    def found(share: float) -> bool:
        power = detection_rate(
            pool, share, subjects=subjects, images=images, uneven=uneven, trials=trials, seed=seed
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
    seed: int = 0,
) -> float:
    """Return how often the method with a share of bad images is found to be worse.

    Each trial draws subjects, how many of each one's images are bad, and both methods' means, whose
    chance is that of their images (normal, as means of 25 and more are).
    """
    rng = np.random.default_rng(seed)
    size = (trials, subjects)
    who = rng.integers(len(pool.good), size=size)
    count = pool.prompts * images
    shares = np.full(size, share)
    if uneven and 0 < share < 1:
        shares = rng.beta(2 * share, 2 * (1 - share), size=size)
    bad = rng.binomial(count, shares)
    good_noise, bad_noise = pool.good_variance[who], pool.bad_variance[who]
    variance = count * good_noise + (count - bad) * good_noise + bad * bad_noise
    # All prompts are asked alike: only which of them are bad is left to chance.
    variance += bad * (1 - bad / count) * pool.loss_variance[who]
    differences = bad / count * pool.loss[who] + rng.normal(size=size) * np.sqrt(variance) / count
    return float(np.mean(_p_values(differences, rng) < 1 - CONFIDENCE) if subjects > 1 else 0.0)


def _p_values(differences: Numbers, rng: np.random.Generator) -> Numbers:
    """Trials x subjects -> two-sided sign-flip p-value of each trial; 1 where the sign is wrong."""
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
