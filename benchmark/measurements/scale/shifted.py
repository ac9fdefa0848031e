"""A method without cost: a subject's first reference, shifted and tinted by the seed.

For measuring everything except training and sampling: `--methods shifted.py:Shifted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from pydantic import BaseModel

from dbbench.advance import Advance
from dbbench.data.prompt import PromptTemplate
from dbbench.generation.backbone import Backbone
from dbbench.generation.method import Checkpoint, Concept
from dbbench.suites.sampling import SampleSettings


class Shifted:
    """Stores one image, and returns a variant of it for each seed."""

    name = "shifted"
    needs_prior = False

    class Settings(BaseModel, extra="forbid"):
        """No settings."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Advance
    ) -> Checkpoint:
        """Store the first image."""
        image = concept.images[0].convert("RGB")
        pixels = {"size": list(image.size), "pixels": image.tobytes().hex()}
        return Checkpoint(files={}, metadata=pixels)

    def generate(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[PromptTemplate],
        class_noun: str,
        backbone: Backbone,
        *,
        seeds: Sequence[int],
        sample: SampleSettings,
    ) -> Iterator[Image.Image]:
        """Shift the image cyclically and change its colours a little."""
        width, height = checkpoint.metadata["size"]
        content = bytes.fromhex(checkpoint.metadata["pixels"])
        pixels = np.frombuffer(content, np.uint8).reshape(height, width, 3)
        for seed in seeds:
            random = np.random.default_rng(seed)
            moved = np.roll(pixels, random.integers(0, width, 2), axis=(0, 1))
            tint = random.uniform(0.7, 1.0, 3)
            yield Image.fromarray((moved * tint).astype(np.uint8))
