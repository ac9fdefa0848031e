"""Encoder: images or texts -> unit vectors; the encode stage calls one, `encoders/` holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dbbench.files import fingerprint
from dbbench.plugins import _load

Vectors = NDArray[np.float32]
"""ND float32; each row has unit norm."""


class Encoder(Protocol):
    """A frozen network with its preprocessing.

    An encoder without a text side raises UserError from `encode_texts`. The result for one image
    depends on neither its neighbours nor the batch size (to 1e-5 in float32).
    """

    @property
    def name(self) -> str:
        """How a suite refers to it, such as "timm:vit_small_patch16_224.dino"."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, library version, every preprocessing choice and dtype."""
        ...

    @property
    def dim(self) -> int:
        """Length D of a feature vector."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        """PIL images of any size and mode -> ND float32, unit norm."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> ND float32, unit norm, in the space of the images."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """An encoder whose resizing can be done ahead, in the threads that decode; not a duty.

    `encode_images(images)` equals `encode_prepared([prepare(image) for image in images])`.
    """

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input; called by several threads at once."""
        ...

    def encode_prepared(self, images: Sequence[Image.Image]) -> Vectors:
        """What `prepare` gave -> ND float32, unit norm."""
        ...


@runtime_checkable
class Distance(Protocol):
    """A frozen network that compares images with each other and has no vector for one: LPIPS."""

    @property
    def name(self) -> str:
        """How one refers to it, such as "lpips:alex"."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, library version, every preprocessing choice and dtype."""
        ...

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input; called by several threads, idempotent."""
        ...

    def pairwise_distances(self, images: Iterable[Image.Image]) -> NDArray[np.float64]:
        """N images of any size -> NN float64, symmetric, zeros on the diagonal.

        Each image goes through the network once; no more than a batch of them is held.
        """
        ...


def encoder_fingerprint(
    *, weights: str, library: str, preprocessing: Mapping[str, Any], dtype: str
) -> str:
    """Return the SHA-256 of all that decides an encoder's numbers.

    `weights` is a hash of the tensors, `library` names the package with its version,
    `preprocessing` holds JSON values only: resize filter, antialiasing, crop, normalization, text
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


def load_encoder(reference: str, *, device: str) -> Encoder:
    """Return the encoder of "scheme:argument", such as "timm:vit_small_patch16_224.dino"."""
    scheme, _, argument = reference.partition(":")
    return cast("Encoder", _load("encoders", scheme)(argument, device=device))
