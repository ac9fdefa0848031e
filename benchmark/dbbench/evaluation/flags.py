"""Flags: images and prompts that score above all real images of their subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dbbench.evaluation.encoder import UnitVectors
from dbbench.evaluation.metric import Metric, Values, real_ceiling, unit_rows

ONE_COLOUR = "one colour"
"""The flag of an image that shows nothing: it has no metric."""
FLAGS = ("copy", "collapse")
"""The metrics that reports and `dbbench score` flag by."""


@dataclass(frozen=True)
class Flag:
    """One flagged image, or the first image of a flagged prompt."""

    row: int
    value: float
    """The image's score, or the mean over its prompt."""
    ceiling: float
    nearest: int
    """The index of the most similar reference."""

    @property
    def excess(self) -> float:
        """The score minus the ceiling."""
        return self.value - self.ceiling


def find_flags(
    metric: Metric,
    prompts: Sequence[str],
    values: Values,
    images: UnitVectors,
    references: UnitVectors,
) -> list[Flag]:
    """Return the images, or with "siblings" the prompts, above the ceiling; NaN is not flagged.

    `values` N are the metric's own scores, `images` ND and `references` RD the features that it
    scored. With fewer than two references there is no ceiling, and nothing is flagged.
    """
    ceiling = real_ceiling(references)
    if ceiling is None:
        return []
    ids = np.asarray(prompts) if metric.compares == "siblings" else np.arange(len(prompts))
    groups = [np.flatnonzero(ids == each) for each in dict.fromkeys(ids.tolist())]
    nearest = (unit_rows(images) @ unit_rows(references).T).argmax(axis=1)
    return [
        Flag(int(rows[0]), value, ceiling, int(nearest[rows[0]]))
        for rows in groups
        if (value := float(values[rows].mean())) > ceiling
    ]
