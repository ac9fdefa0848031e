"""The interface of encoders: images or texts -> unit vectors; `encoders/` has the classes.

The encode stage and the feature store call encoders; metrics compare the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dbbench.cut_texts import say_cut
from dbbench.device import require_device
from dbbench.files import fingerprint
from dbbench.plugins import load_plugin

UnitVectors = NDArray[np.float32]
"""ND float32; each row has unit norm."""


class Encoder(Protocol):
    """A frozen network with its preprocessing.

    An encoder for images only raises UserError from `encode_texts`. The vector of an image does
    not depend on the batch it is in (to 1e-5 in float32).
    """

    @property
    def name(self) -> str:
        """Its name in a suite, such as "timm:vit_small_patch16_224.dino"."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, library version, every preprocessing choice and dtype."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a feature vector."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> UnitVectors:
        """PIL images of any size and mode -> ND float32, unit norm."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Texts -> ND float32, unit norm, in the space of the images."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """Optional for an encoder: resize images ahead, in the threads that decode them.

    `encode_images(images)` equals `encode_prepared([prepare(image) for image in images])`.
    """

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input size; called by several threads at once."""
        ...

    def encode_prepared(self, images: Sequence[Image.Image]) -> UnitVectors:
        """Images from `prepare` -> ND float32, unit norm."""
        ...


@runtime_checkable
class Counting(Protocol):
    """Optional for an encoder of texts: how much of a text it reads."""

    @property
    def context(self) -> int:
        """The most tokens of a text that it reads, with the marks of beginning and end."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, counted in the same way."""
        ...


@runtime_checkable
class Distance(Protocol):
    """A frozen network that compares pairs of images, and has no vector for one image: LPIPS."""

    @property
    def name(self) -> str:
        """Its name in a suite, such as "lpips:alex"."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, library version, every preprocessing choice and dtype."""
        ...

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input size; called by several threads, idempotent."""
        ...

    def pairwise_distances(self, images: Iterable[Image.Image]) -> NDArray[np.float64]:
        """N images of any size -> NN float64, symmetric, zeros on the diagonal.

        Each image goes through the network once; only one batch of images is in memory.
        """
        ...


def encoder_fingerprint(
    *, weights: str, library: str, preprocessing: Mapping[str, Any], dtype: str
) -> str:
    """Return the SHA-256 of everything that affects an encoder's vectors.

    `weights` is a hash of the tensors, `library` is the package with its version, and
    `preprocessing` holds JSON values: resize filter, antialiasing, crop, normalization, text
    handling.
    """
    return fingerprint(
        {
            "weights": weights,
            "library": library,
            "preprocessing": dict(preprocessing),
            "dtype": dtype,
        }
    )


def say_cut_texts(encoder: Encoder, texts: Sequence[str]) -> str:
    """Return a line on texts that an encoder does not read to the end; "" where it reads all.

    Of an encoder that does not count tokens nothing is known.
    """
    if not isinstance(encoder, Counting) or not texts:
        return ""
    return say_cut(texts, encoder.count_tokens(texts), encoder.context, encoder.name)


def load_encoder(reference: str, *, device: str) -> Encoder:
    """Return the encoder named "scheme:argument", such as "timm:vit_small_patch16_224.dino".

    Raises UserError if torch cannot use the device.
    """
    require_device(device)
    scheme, _, argument = reference.partition(":")
    return cast("Encoder", load_plugin("encoders", scheme)(argument, device=device))
