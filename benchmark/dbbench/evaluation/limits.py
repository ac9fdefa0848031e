"""Limits of a method (section 4.5 of the paper), each a number per subject from a run's features.

The paper shows three failures (figure 9) and names a fourth: the prompted context is not rendered,
the context changes the subject's appearance, the references are copied, and features appear that
the subject does not have. Every number here is lower for a better method and is computed from
features that a run already has; `blind` describes what it does not measure. Its agreement with the
truth is measured on drawn images (`validity/`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dbbench.evaluation.encoder import UnitVectors
from dbbench.evaluation.metric import Values, highest_cosine, real_ceiling, unit_rows

SOURCE = "arXiv 2208.12242, section 4.5"


@dataclass(frozen=True)
class Shown:
    """One method's N images of one subject and its R real images, in features of two encoders."""

    look: UnitVectors
    """ND of the images, in features that distinguish subjects (DINO)."""
    meaning: UnitVectors
    """NE of the images, in features shared with texts (CLIP)."""
    texts: UnitVectors
    """NE of each image's own prompt."""
    prompts: NDArray[np.str_]
    """N ids of the prompts."""
    keeps_look: NDArray[np.bool_]
    """N: whether the prompt is a place, so that the subject's appearance should not change."""
    real_meaning: UnitVectors
    """RE of the real images."""

    @cached_property
    def unlike(self) -> Values:
        """N in [0, 1]: the share of the other prompts whose text fits an image better than its own.

        An equal fit counts half; NaN without other prompts.
        """
        first = np.unique(self.prompts, return_index=True)[1]
        own = np.searchsorted(self.prompts[first], self.prompts)
        fit = unit_rows(self.meaning) @ unit_rows(self.texts[first]).T
        mine = fit[np.arange(len(own)), own][:, None]
        if len(first) < 2:
            return np.full(len(own), np.nan)
        beaten = (fit > mine).sum(axis=1) + 0.5 * ((fit == mine).sum(axis=1) - 1)
        shares: Values = beaten / (len(first) - 1)
        return shares

    @property
    def rendered(self) -> NDArray[np.bool_]:
        """N: whether no other prompt fits an image better than its own."""
        return np.asarray(self.unlike == 0)

    def groups(self, among: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
        """Return the rows of each prompt's images, of those in `among`."""
        found = [np.flatnonzero(among & (self.prompts == p)) for p in np.unique(self.prompts)]
        return [rows for rows in found if len(rows)]


def entanglement(shown: Shown) -> Values:
    """N equal values: how much the subject's appearance varies between contexts.

    The variance of the contexts' mean features minus the part due to variance within contexts.
    """
    unknown = np.full(len(shown.look), np.nan)
    groups = shown.groups(shown.rendered & shown.keeps_look)
    look = unit_rows(shown.look)
    within = [look[rows].var(axis=0, ddof=1).sum() for rows in groups if len(rows) > 1]
    if len(groups) < 3 or len(within) < 2:
        return unknown
    means = np.stack([look[rows].mean(axis=0) for rows in groups])
    chance = np.mean(within) * np.mean([1 / len(rows) for rows in groups])
    values: Values = np.full(len(look), means.var(axis=0, ddof=1).sum() - chance)
    return values


def overfitting(shown: Shown) -> Values:
    """N: how far the highest similarity to a reference exceeds that between two references.

    Zero if it does not, or if the image shows its own prompt; NaN for fewer than two references.
    """
    ceiling = real_ceiling(shown.real_meaning)
    if ceiling is None:
        return np.full(len(shown.meaning), np.nan)
    excess = highest_cosine(shown.meaning, shown.real_meaning) - ceiling
    return np.where(shown.rendered, 0.0, np.maximum(excess, 0.0))


def hallucination(shown: Shown) -> Values:
    """N: one minus the mean similarity to the prompt's other images, of those that show it."""
    values = np.full(len(shown.look), np.nan)
    look = unit_rows(shown.look)
    for rows in shown.groups(shown.rendered):
        if len(rows) > 1:
            alike = look[rows] @ look[rows].T
            values[rows] = 1 - (alike.sum(axis=1) - 1) / (len(rows) - 1)
    return values


@dataclass(frozen=True)
class Limit:
    """One failure: its names, its measure, and what the measure does not cover."""

    name: str
    label: str
    definition: str
    blind: str
    measure: Callable[[Shown], Values]
    """N values, NaN where undefined; a subject's number is their mean."""

    def of(self, shown: Shown) -> float:
        """Return the subject's number, NaN if no image has one."""
        values = self.measure(shown)
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else float("nan")


LIMITS = (
    Limit(
        "context",
        "Context not rendered",
        "The share of the subject's other prompts whose text fits an image better than its own does"
        " (CLIP); 0 if its own fits best, 0.5 for an image unrelated to its prompt.",
        "Contexts that CLIP does not distinguish, and the identity of the subject.",
        lambda shown: shown.unlike,
    ),
    Limit(
        "entanglement",
        "Context-appearance entanglement",
        "The variance of a subject's mean features between contexts, minus the variance due to"
        " images of one context (DINO); only prompts that ask for a place and no other appearance,"
        " and only images that show it.",
        "An appearance that is wrong in the same way everywhere. DINO also measures backgrounds:"
        " compare methods on the same subject and prompts, do not compare the number with zero.",
        entanglement,
    ),
    Limit(
        "overfitting",
        "Overfitting to the references",
        "How far an image's highest similarity to a reference exceeds the highest similarity of two"
        " references (CLIP); 0 if it does not, and for an image that shows its prompt.",
        "A copied reference, if the prompt asks for the setting of that reference.",
        overfitting,
    ),
    Limit(
        "hallucination",
        "Hallucinated features",
        "One minus the mean similarity of an image to the others of its prompt (DINO), among those"
        " that show the prompt.",
        "Features that are added to every image in the same way. Other poses count too, so that a"
        " method with more variety has a higher number. A prompt with one image has no number.",
        hallucination,
    ),
)
