"""DINO: similarity of a generated image to the subject itself, not only to its class."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, mean_cosine


class Dino:
    """Mean pairwise cosine similarity to the real images in a self-supervised ViT's features.

    For image g and the subject's real images r_1..r_R: (1/R) sum_k cos(f(g), f(r_k)); range
    [-1, 1]. Ruiz et al., arXiv 2208.12242, section 4.2 (ViT-S/16 DINO there). It does not
    measure agreement with the prompt, and a copy of a real image scores best.
    """

    name = "dino"
    label = "DINO"
    role = "dino"
    compares: Comparison = "references"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Generated ND and references RD -> N values."""
        return mean_cosine(features.generated, features.references)
