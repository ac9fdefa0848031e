"""Limits of a method (section 4.5 of the paper), each a number per subject from a run's features.

The paper shows three ways to fail (figure 9) and names a fourth: the prompted context is not
rendered, the context changes the subject's appearance, the references come back, and features
appear that the subject does not have. Every number here is lower for a better method, is pure
arithmetic on features that a run has anyway, and says what it cannot see. How well each agrees with
the truth is measured on drawn pictures (`validity.py`).
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
    """What one method showed of one subject: N images, R real ones, in two encoders' features."""

    look: UnitVectors
    """ND of the images, in the features that tell subjects apart (DINO)."""
    meaning: UnitVectors
    """NE of the images, in the features that texts have too (CLIP)."""
    texts: UnitVectors
    """NE of each image's own prompt."""
    prompts: NDArray[np.str_]
    """N ids of the prompts."""
    keeps_look: NDArray[np.bool_]
    """N: whether the prompt asks for a place, and so for no other look of the subject."""
    real_meaning: UnitVectors
    """RE of the real images."""

    @cached_property
    def unlike(self) -> Values:
        """N in [0, 1]: the share of the other prompts whose text fits an image better than its own.

        What fits as well counts half; NaN where there is no other prompt.
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
    """N, all the same: how far the subject's look moves from context to context.

    The variance of the contexts' mean features less what chance within a context adds to it.
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
    """N: how much nearer an image is to some reference than any two of these are to each other.

    Zero for an image that is not, or that shows its own prompt; NaN for fewer than two references.
    """
    ceiling = real_ceiling(shown.real_meaning)
    if ceiling is None:
        return np.full(len(shown.meaning), np.nan)
    excess = highest_cosine(shown.meaning, shown.real_meaning) - ceiling
    return np.where(shown.rendered, 0.0, np.maximum(excess, 0.0))


def hallucination(shown: Shown) -> Values:
    """N: how unlike an image is to the others of its prompt, among those that show the prompt."""
    values = np.full(len(shown.look), np.nan)
    look = unit_rows(shown.look)
    for rows in shown.groups(shown.rendered):
        if len(rows) > 1:
            alike = look[rows] @ look[rows].T
            values[rows] = 1 - (alike.sum(axis=1) - 1) / (len(rows) - 1)
    return values


@dataclass(frozen=True)
class Limit:
    """One way to fail: how it is called, measured, and what its number does not see."""

    name: str
    label: str
    definition: str
    blind: str
    measure: Callable[[Shown], Values]
    """N values, NaN where there is nothing to say; a subject's number is their mean."""

    def of(self, shown: Shown) -> float:
        """The subject's number, NaN where no image has one."""
        values = self.measure(shown)
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else float("nan")


LIMITS = (
    Limit(
        "context",
        "Context not rendered",
        "The share of the subject's other prompts whose text fits an image better than its own does"
        " (CLIP); 0 where its own fits best, 0.5 for an image that has nothing to do with it.",
        "Contexts that CLIP cannot tell apart, and who the subject is.",
        lambda shown: shown.unlike,
    ),
    Limit(
        "entanglement",
        "Context-appearance entanglement",
        "The variance of a subject's mean features from context to context, less what images of one"
        " context vary by themselves (DINO); only prompts that ask for a place and no other look,"
        " and only images that show it.",
        "A look that is wrong in the same way everywhere. Backgrounds count too, as far as DINO"
        " sees them: compare methods on the same subject and prompts, not the number with zero.",
        entanglement,
    ),
    Limit(
        "overfitting",
        "Overfitting to the references",
        "How much nearer an image is to one of the references than any two of these are to each"
        " other (CLIP); 0 for an image that is not, and for one that shows its prompt.",
        "A reference given back where the prompt asks for the reference's own setting.",
        overfitting,
    ),
    Limit(
        "hallucination",
        "Hallucinated features",
        "One minus the mean similarity of an image to the others of its prompt (DINO), among those"
        " that show the prompt.",
        "What is added to every image alike; other poses count as well, so that a method of more"
        " variety has more. A prompt with one image has none.",
        hallucination,
    ),
)
