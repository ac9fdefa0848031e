"""Test the limits: do their numbers follow the known share of images with a defect?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dbbench.evaluation.limits import LIMITS, Limit, Shown
from dbbench.evaluation.statistics import subject_interval
from dbbench.mini.drawing.places import PLACES
from dbbench.validity.drawn import DrawnImage
from dbbench.validity.truth import DrawnSubject

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of a subject's images with a defect; each limit is measured at each share."""
LIMIT_DEFECTS = ("wrong place", "entangled", "copied", "hallucinated", "other identity")
"""The defects with which limits are tested; OWN_DEFECT has the one that each limit measures."""
OWN_DEFECT = {
    "context": "wrong place",
    "entanglement": "entangled",
    "overfitting": "copied",
    "hallucination": "hallucinated",
}


def limit_agreement(drawn: Sequence[DrawnSubject]) -> pd.DataFrame:
    """Return how each limit's number follows the true share of images with each defect.

    `value`: the rank correlation (Spearman) with the share within a subject, as mean over subjects
    with a 95% interval; 0 for a number that does not change. `pooled`: the same over all subjects
    together; it is high only if a number has the same meaning for all subjects. `images`: how often
    an image with the defect has a higher number than one without (0.5 is chance); NaN if the limit
    has no number per image. `own`: whether the limit measures this defect; it should not change
    with the others. `relative`: its change if half of the images have the defect, divided by the
    change for its own defect.
    """
    rows: list[dict[str, Any]] = []
    for limit in LIMITS:
        for defect in LIMIT_DEFECTS:
            numbers = np.array([_numbers(limit, d, defect) for d in drawn])
            within = np.array([rank_correlation(own, SHARES) for own in numbers])
            shares = np.tile(SHARES, len(numbers))
            apart = np.array([_separation(limit, d, defect) for d in drawn])
            known = apart[np.isfinite(apart)]
            rows.append(
                {
                    "limit": limit.name,
                    "defect": defect,
                    "own": OWN_DEFECT[limit.name] == defect,
                    "pooled": rank_correlation(numbers.ravel(), shares),
                    "images": float(known.mean()) if len(known) else np.nan,
                    "without": float(np.nanmean(numbers[:, 0])),
                    "with_half": float(np.nanmean(numbers[:, -1])),
                }
                | over_subjects(within)
            )
    table = pd.DataFrame(rows)
    moved = table["with_half"] - table["without"]
    table["relative"] = moved / table["limit"].map(moved[table["own"]].set_axis(OWN_DEFECT))
    return table


def shown_with(drawn: DrawnSubject, defect: str, bad: NDArray[Any] | None = None) -> Shown:
    """Return a subject's perfect images, but with the defect where `bad` is true."""
    good, worse = drawn.rows("perfect"), drawn.rows(defect)
    # A kind with one image per prompt replaces only that image.
    slots = {_slot(drawn.images[row]): row for row in worse}
    instead = np.array([slots.get(_slot(drawn.images[row]), row) for row in good])
    rows = good if bad is None else np.where(bad, instead, good)
    prompts = np.array([drawn.images[row].prompt for row in good])
    return Shown(
        look=drawn.features["dino"][rows],
        meaning=drawn.features["clip"][rows],
        texts=drawn.texts[good],
        prompts=prompts,
        keeps_look=np.isin(prompts, list(PLACES)),
        real_meaning=drawn.real["clip"],
    )


def rank_correlation(values: ArrayLike, truth: ArrayLike) -> float:
    """Return Spearman's correlation over the finite values; 0 if the values are constant."""
    from scipy.stats import rankdata

    first, second = np.asarray(values, dtype=float), np.asarray(truth, dtype=float)
    known = np.isfinite(first)
    if known.sum() < 3 or np.ptp(first[known]) == 0 or np.ptp(second[known]) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(first[known]), rankdata(second[known]))[0, 1])


def over_subjects(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean over subjects with its 95% interval and their count."""
    if not len(values):
        return {"value": np.nan, "low": np.nan, "high": np.nan, "subjects": 0}
    interval = subject_interval(values)
    ends = {"low": interval.low, "high": interval.high}
    return {"value": float(np.mean(values)), **ends, "subjects": len(values)}


def _numbers(limit: Limit, drawn: DrawnSubject, defect: str) -> list[float]:
    """Return the limit's number for each of SHARES."""
    good = drawn.rows("perfect")
    rng = np.random.default_rng(0)
    chance = rng.random(len(good))
    if defect == "entangled":  # All images of a prompt have it, or none.
        contexts = np.unique([drawn.images[row].prompt for row in good], return_inverse=True)[1]
        chance = rng.random(len(good))[contexts]
    return [limit.of(shown_with(drawn, defect, chance < share)) for share in SHARES]


def _separation(limit: Limit, drawn: DrawnSubject, defect: str) -> float:
    """Return how often an image with the defect has a higher number than one without."""
    every = np.ones(len(drawn.rows("perfect")), dtype=bool)
    with_it = limit.measure(shown_with(drawn, defect, every))
    without = limit.measure(shown_with(drawn, defect))
    with_it, without = (values[np.isfinite(values)] for values in (with_it, without))
    if not len(with_it) or not len(without) or limit.name == "entanglement":
        return float("nan")
    return float((np.sign(with_it[:, None] - without[None, :]).mean() + 1) / 2)


def _slot(image: DrawnImage) -> tuple[str, int]:
    return image.prompt, image.number
