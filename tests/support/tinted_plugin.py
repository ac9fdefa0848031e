"""A third party's package as the harness sees one: a method and an encoder without a network.

`install` lays it out as an installed distribution with entry points, so that the real look-up, the
real stages and a real subprocess find it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from pydantic import BaseModel, ConfigDict

from dbbench import Checkpoint

SUITE = """
name = "tiny"
description = "for tests"
banner = "tiny: no result"
source = "mini"
methods = {{ tinted = {{}}, plain = {{}} }}
encoders = {{ dino = "pixels:4", clip = "pixels:6" }}
[backbone]
path = "{backbone}"
resolution = 16
[prior]
count = 3
sampler = {{ steps = 2, scheduler = "ddim", batch_size = 2 }}
[sample]
images_per_prompt = 1
steps = 2
batch_size = 4
"""

ENTRY_POINTS = """
[dbbench.methods]
tinted = tinted_plugin:Tinted
plain = tinted_plugin:Plain
[dbbench.encoders]
pixels = tinted_plugin:load_pixels
"""


def install(folder: Path) -> Path:
    """Write the package with its metadata into a folder that can stand on the import path."""
    information = folder / "tinted_plugin-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tinted-plugin\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(__file__, folder / "tinted_plugin.py")
    return folder


class Tinted:
    """Shows the first reference image in a colour that depends on the seed and the subject."""

    name = "tinted"
    needs_prior = True

    class Settings(BaseModel):
        """How long it pretends to learn, and on which subject it fails."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        steps: int = 3
        pause: float = 0.0
        fail_on: str = ""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(self, concept: Any, backbone: Any, *, seed: int, progress: Any) -> Checkpoint:
        """Keep the first image as it is."""
        if concept.name == self.settings.fail_on:
            raise RuntimeError(f"cannot learn {concept.name}")
        for step in range(1, self.settings.steps + 1):
            time.sleep(self.settings.pause)
            progress(step, self.settings.steps, {"loss": 1.0 / step})
        image = concept.images[0].resize((8, 8))
        metadata = {
            "pixels": image.tobytes().hex(),
            "seed": seed,
            "references": len(concept.images),
            "priors": len(concept.prior_images),
        }
        return Checkpoint(files={}, metadata=metadata, losses=[1.0])

    def generate(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[Any],
        class_noun: str,
        backbone: Any,
        *,
        seeds: Sequence[int],
        sample: Any,
    ) -> Iterator[Image.Image]:
        """Tint it with the seed, once for each prompt."""
        pixels = bytes.fromhex(checkpoint.metadata["pixels"])
        image = Image.frombytes("RGB", (8, 8), pixels).resize((16, 16))
        for _prompt, seed in zip(prompts, seeds, strict=True):
            time.sleep(self.settings.pause)
            colour = (128 + seed % 128, 128 + seed // 128 % 128, 255)
            yield ImageChops.multiply(image, Image.new("RGB", image.size, colour))


class Plain(Tinted):
    """The same without prior images."""

    name = "plain"
    needs_prior = False


class Pixels:
    """The pixels of a small copy, and for texts a direction of their own."""

    def __init__(self, size: int) -> None:
        self.name, self.size, self.dim = f"pixels:{size}", size, 3 * size**2
        # A test that wants other weights asks for them here.
        self.fingerprint = f"{self.name} {os.environ.get('PIXELS_VERSION', '1')}"

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """PIL images -> ND float32, unit norm."""
        rows = [np.asarray(image.resize((self.size, self.size)), np.float32) for image in images]
        return _unit(np.stack([row.ravel() + 1 for row in rows]))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> ND float32, unit norm."""
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        seeds = [int.from_bytes(digest[:4], "big") for digest in digests]
        return _unit(np.stack([np.random.default_rng(s).normal(size=self.dim) for s in seeds]))


def load_pixels(argument: str, *, device: str) -> Pixels:
    """The encoder loader that the entry point names."""
    return Pixels(int(argument))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
