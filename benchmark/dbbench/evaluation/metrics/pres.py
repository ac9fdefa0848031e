"""PRES: how much images of the class noun alone look like the subject."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, mean_cosine


class Pres:
    """Mean pairwise DINO similarity of images of the bare class noun to the subject's real images.

    For an image g that the fine-tuned model draws for "a dog" and the real images r_1..r_R of this
    dog: (1/R) sum_k cos(f(g), f(r_k)); range [-1, 1], lower is better: prior preservation keeps
    random dogs random. Ruiz et al., arXiv 2208.12242, section 4.3 and Table 3; its prompt and its
    number of images are not published, here "a {class_noun}". It measures neither the quality
    nor the variety of these images: noise has the lowest PRES.
    """

    name = "pres"
    label = "PRES"
    role = "dino"
    compares: Comparison = "class-images"
    higher_is_better = False
    flag = ""

    def score(self, features: Features) -> Values:
        """Features ND of class images and references RD -> N values."""
        return mean_cosine(features.generated, features.references)
