"""Limits against the truth: do their numbers follow what is known to be wrong with pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dbbench.evaluation.limits import LIMITS, Limit, Shown
from dbbench.evaluation.statistics import subject_interval
from dbbench.mini.drawing.places import PLACES
from dbbench.validity.drawn import Picture
from dbbench.validity.truth import Drawn

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of a subject's images with a defect, for each of which a limit is measured."""
LIMITED = ("wrong place", "entangled", "copied", "hallucinated", "other identity")
"""The defects that limits are held against; each limit's own is in OWN."""
OWN = {
    "context": "wrong place",
    "entanglement": "entangled",
    "overfitting": "copied",
    "hallucination": "hallucinated",
}


def limit_agreement(drawn: Sequence[Drawn], *, seed: int = 0) -> pd.DataFrame:
    """Return how the number of each limit follows the true share of images with each defect.

    `value` is the rank correlation (Spearman) with the share within a subject, its mean over
    subjects with a 95% interval, a number that does not move counting as 0; `pooled` is that over
    all subjects together, which asks that a number means the same for each. `images` is how often
    an image with the defect has more than one without (0.5 is chance); NaN for what is no number of
    an image. `own` marks the defect that the limit is for: with the others it should not move, and
    `relative` is how much it does, where its own defect counts 1, at half of the images.
    """
    rows: list[dict[str, Any]] = []
    for limit in LIMITS:
        for defect in LIMITED:
            numbers = np.array([_numbers(limit, d, defect, seed) for d in drawn])
            within = np.array([rank_correlation(own, SHARES) for own in numbers])
            shares = np.tile(SHARES, len(numbers))
            apart = np.array([_separation(limit, d, defect) for d in drawn])
            known = apart[np.isfinite(apart)]
            rows.append(
                {
                    "limit": limit.name,
                    "defect": defect,
                    "own": OWN[limit.name] == defect,
                    "pooled": rank_correlation(numbers.ravel(), shares),
                    "images": float(known.mean()) if len(known) else np.nan,
                    "without": float(np.nanmean(numbers[:, 0])),
                    "with_half": float(np.nanmean(numbers[:, -1])),
                }
                | over_subjects(within)
            )
    table = pd.DataFrame(rows)
    moved = table["with_half"] - table["without"]
    table["relative"] = moved / table["limit"].map(moved[table["own"]].set_axis(OWN))
    return table


def shown(drawn: Drawn, defect: str, bad: NDArray[Any] | None = None) -> Shown:
    """Return what a drawn method shows of its subject: perfect, but for the images in `bad`."""
    good, worse = drawn.rows("perfect"), drawn.rows(defect)
    # A kind with one image for each prompt stands for that image alone.
    slots = {_slot(drawn.pictures[row]): row for row in worse}
    instead = np.array([slots.get(_slot(drawn.pictures[row]), row) for row in good])
    rows = good if bad is None else np.where(bad, instead, good)
    prompts = np.array([drawn.pictures[row].prompt for row in good])
    return Shown(
        look=drawn.features["dino"][rows],
        meaning=drawn.features["clip"][rows],
        texts=drawn.texts[good],
        prompts=prompts,
        keeps_look=np.isin(prompts, list(PLACES)),
        real_meaning=drawn.real["clip"],
    )


def rank_correlation(values: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's correlation over what is known; 0 where the values do not move."""
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


def _numbers(limit: Limit, drawn: Drawn, defect: str, seed: int) -> list[float]:
    """The limit's number for each of SHARES."""
    good = drawn.rows("perfect")
    rng = np.random.default_rng(seed)
    chance = rng.random(len(good))
    if defect == "entangled":  # A context has it or not, with all its images.
        contexts = np.unique([drawn.pictures[row].prompt for row in good], return_inverse=True)[1]
        chance = rng.random(len(good))[contexts]
    return [limit.of(shown(drawn, defect, chance < share)) for share in SHARES]


def _separation(limit: Limit, drawn: Drawn, defect: str) -> float:
    """How often an image with the defect has more of a limit than one without."""
    every = np.ones(len(drawn.rows("perfect")), dtype=bool)
    with_it = limit.measure(shown(drawn, defect, every))
    without = limit.measure(shown(drawn, defect))
    with_it, without = (values[np.isfinite(values)] for values in (with_it, without))
    if not len(with_it) or not len(without) or limit.name == "entanglement":
        return float("nan")
    return float((np.sign(with_it[:, None] - without[None, :]).mean() + 1) / 2)


def _slot(picture: Picture) -> tuple[str, int]:
    return picture.prompt, picture.number
