"""DINOv2-I: as DINO, with DINOv2 features, which distinguish finer details."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, mean_cosine


class DinoV2I:
    """Mean pairwise cosine similarity to the real images in DINOv2's features.

    For image g and the subject's real images r_1..r_R: (1/R) sum_k cos(f(g), f(r_k)); range
    [-1, 1]. The formula of DINO (Ruiz et al., arXiv 2208.12242, section 4.2) on the network of
    arXiv 2304.07193, as DreamBench++ reports it (arXiv 2406.16855). Its values are
    not comparable with those of DINO.
    """

    name = "dinov2-i"
    label = "DINOv2-I"
    role = "dinov2"
    compares: Comparison = "references"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Generated ND and references RD -> N values."""
        return mean_cosine(features.generated, features.references)
