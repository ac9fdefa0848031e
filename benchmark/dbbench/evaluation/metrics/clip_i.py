"""CLIP-I: similarity of a generated image to the subject's images, in CLIP features."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, mean_cosine


class ClipI:
    """Mean pairwise cosine similarity to the real images in CLIP's image features.

    For image g and the subject's real images r_1..r_R: (1/R) sum_k cos(f(g), f(r_k)); range
    [-1, 1]. Ruiz et al., arXiv 2208.12242, section 4.2. It distinguishes
    subjects of one class less well than DINO, because CLIP was trained on captions.
    """

    name = "clip-i"
    label = "CLIP-I"
    role = "clip"
    compares: Comparison = "references"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Generated ND and references RD -> N values."""
        return mean_cosine(features.generated, features.references)
