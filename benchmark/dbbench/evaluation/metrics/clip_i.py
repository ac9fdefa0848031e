"""CLIP-I: how much a generated image looks like the subject's images to an image-text model."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, mean_cosine


class ClipI:
    """Mean pairwise cosine similarity to the real images in CLIP's image features.

    For image g and the subject's real images r_1..r_R: (1/R) sum_k cos(f(g), f(r_k)); range
    [-1, 1]. Ruiz et al., arXiv 2208.12242, section 4.2. It tells subjects of one class apart
    less well than DINO does, since CLIP was trained on what captions say.
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
