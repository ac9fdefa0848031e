"""Copy: whether a generated image is a copy of a reference."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, highest_cosine


class Copy:
    """Highest cosine similarity to any one real image in DINO's features.

    For image g and the subject's real images r_1..r_R: max_k cos(f(g), f(r_k)); range [-1, 1]. An
    image is flagged where this exceeds the highest similarity of any two of the real images: no
    photograph of the subject is that close to another one. An exact copy of a reference has 1.
    Not in the paper; it detects methods that return their input and score above the real images. It
    misses copies that are mirrored, cropped or strongly recoloured. If two references are nearly
    the same image, the ceiling is high and few images are flagged.
    """

    name = "copy"
    label = "copy"
    role = "dino"
    compares: Comparison = "references"
    higher_is_better = False
    flag = "copy"

    def score(self, features: Features) -> Values:
        """Generated ND and references RD -> N values."""
        return highest_cosine(features.generated, features.references)
