"""Collapse: whether all images of one prompt are nearly the same."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, sibling_cosine


class Collapse:
    """Mean cosine similarity of an image to the other images of its prompt in DINO's features.

    For image i of the n images of a prompt: 1/(n-1) sum_{j != i} cos(f(i), f(j)); range [-1, 1];
    the mean over them is the mean over all pairs. A prompt is flagged where that mean exceeds the
    highest similarity of any two of the subject's real images. Not in the paper, whose DIV
    measures the same with LPIPS; this metric needs no other network and has a ceiling. It does not
    compare images of different prompts; a prompt with one image has no value.
    """

    name = "collapse"
    label = "collapse"
    role = "dino"
    compares: Comparison = "siblings"
    higher_is_better = False
    flag = "collapse"

    def score(self, features: Features) -> Values:
        """Features ND of the images of one prompt -> N values, none for a single image."""
        return sibling_cosine(features.generated)
