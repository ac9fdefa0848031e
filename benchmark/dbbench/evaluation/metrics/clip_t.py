"""CLIP-T: how well a generated image agrees with its prompt."""

from __future__ import annotations

from dbbench.evaluation.metric import Comparison, Features, Values, paired_cosine


class ClipT:
    """Cosine similarity of an image and its own prompt in CLIP's common space.

    For image g and prompt p: cos(f_image(g), f_text(p)), with the identifier left out of p; range
    [-1, 1], unscaled. Ruiz et al., arXiv 2208.12242, section 4.2. It does not measure the identity
    of the subject.
    """

    name = "clip-t"
    label = "CLIP-T"
    role = "clip"
    compares: Comparison = "text"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Generated ND and texts ND, row by row -> N values."""
        if features.texts is None:
            raise ValueError("CLIP-T needs the features of the prompts")
        return paired_cosine(features.generated, features.texts)
