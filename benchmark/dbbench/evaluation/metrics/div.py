"""DIV: how much the images of one prompt differ from each other."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values


class Div:
    """Mean LPIPS distance of an image to the other images of the same subject and prompt.

    For image i of the n images of a prompt: 1/(n-1) sum_{j != i} d(i, j); range [0, inf), seldom
    above 1, higher is better. The mean over the n images is the mean over all pairs. Ruiz et al.,
    arXiv 2208.12242, section 4.3 and Table 3; LPIPS is arXiv 1801.03924, the paper's network is not
    published (here AlexNet). It does not measure the content of the images: noise scores best.
    A prompt with one image has no DIV.
    """

    name = "div"
    label = "DIV"
    role = "lpips"
    compares: Comparison = "siblings"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Distances NN between the images of one prompt -> N values, none for a single image."""
        if features.distances is None:
            raise ValueError("DIV needs the distances between the images of a prompt")
        distances = features.distances.astype("float64")
        if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
            raise ValueError(f"distances are not square: {distances.shape}")
        if len(distances) < 2:
            return distances[0, :0]
        values: Values = (distances.sum(axis=1) - distances.diagonal()) / (len(distances) - 1)
        return values
