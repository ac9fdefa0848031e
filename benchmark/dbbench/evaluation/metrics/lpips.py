"""LPIPS: perceptual distance of generated images to the real images."""

from __future__ import annotations

import numpy as np

from dbbench.evaluation.metric import Comparison, Features, Values


class Lpips:
    """Mean LPIPS distance of a generated image to the R real images of its subject.

    For image i: 1/R sum_r d(i, r); range [0, inf), seldom above 1, lower is better. LPIPS is arXiv
    1801.03924; OFT gives it beside DINO and CLIP-I (arXiv 2306.07280). It compares position by
    position: the same subject in another pose or place is as far as another subject.
    """

    name = "lpips"
    label = "LPIPS"
    role = "lpips"
    compares: Comparison = "distances"
    higher_is_better = False
    flag = ""

    def score(self, features: Features) -> Values:
        """Distances NR from generated to real images -> N values."""
        if features.real_distances is None or not features.real_distances.shape[1]:
            raise ValueError("LPIPS needs the distances to the subject's real images")
        return np.asarray(features.real_distances.mean(axis=1), dtype=np.float64)
