"""The class noun alone: what a backbone draws that never saw the subject. Any method beats it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL.Image import Image
from pydantic import BaseModel

from dbbench import (
    Advance,
    Backbone,
    Checkpoint,
    Comparison,
    Concept,
    Features,
    PromptTemplate,
    SampleSettings,
    Values,
)


class ClassNoun:
    """Draws "a small dog in the jungle" for every dog."""

    name = "class_noun"
    needs_prior = False

    class Settings(BaseModel, extra="forbid"):
        """What --set methods.class_noun.adjective=large changes."""

        adjective: str = ""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Advance
    ) -> Checkpoint:
        """Learn nothing: `concept.images` are the subject's, and are not looked at."""
        progress(1, 1, {"loss": 0.0})
        return Checkpoint(files={}, metadata={"adjective": self.settings.adjective})

    def generate(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[PromptTemplate],
        class_noun: str,
        backbone: Backbone,
        *,
        seeds: Sequence[int],
        sample: SampleSettings,
    ) -> Iterator[Image]:
        """Draw each prompt from the noise of its seed."""
        token = checkpoint.metadata["adjective"]
        texts = [prompt.render(token, class_noun) for prompt in prompts]
        return backbone.sample(texts, seeds=seeds, settings=sample)


class Nearest:
    """Cosine similarity to the most similar real image, where DINO takes the mean of all."""

    name = "nearest"
    label = "nearest"
    role = "dino"
    compares: Comparison = "references"
    higher_is_better = True
    flag = ""

    def score(self, features: Features) -> Values:
        """Generated (N, D) and references (R, D), float32 of unit norm -> N values."""
        assert features.references is not None
        cosines = features.generated @ features.references.T
        return np.asarray(cosines.max(axis=1), dtype=np.float64)
