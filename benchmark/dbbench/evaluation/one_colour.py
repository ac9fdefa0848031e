"""Images of one colour: what a safety checker or a broken autoencoder gives in place of a picture.

They are looked for beside the features, as an encoder of the feature store: so each image is
decoded once for both, and what was found is cached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dbbench.errors import UserError
from dbbench.evaluation.encoder import UnitVectors

LEVELS = 8
"""An image whose channels each spread over no more of their 256 levels is of one colour.

JPEG alone spreads a plain area over some of them.
"""


class Spread:
    """Takes an encoder's place in the feature store; its vector is one number, in levels."""

    name = "spread of colours"
    fingerprint = "largest minus smallest level, the widest channel, 1"
    dim = 1

    def prepare(self, image: Image.Image) -> Image.Image:
        """Return an image of two pixels: the smallest and the largest level of each channel."""
        lowest, highest = zip(*_extrema(image), strict=True)
        found = Image.new("RGB", (2, 1), lowest)
        found.putpixel((1, 0), highest)
        return found

    def encode_prepared(self, images: Sequence[Image.Image]) -> UnitVectors:
        """Images from `prepare` -> N1 float32, 0 to 255."""
        rows = [[float(spread(image))] for image in images]
        return np.asarray(rows, dtype=np.float32).reshape(-1, 1)

    def encode_images(self, images: Sequence[Image.Image]) -> UnitVectors:
        """PIL images -> N1 float32, 0 to 255."""
        return self.encode_prepared(images)

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Raise UserError: texts have no colours."""
        raise UserError(f"{self.name} is of images only")


def spread(image: Image.Image) -> int:
    """Return over how many levels the widest channel of an image spreads, 0 to 255."""
    return max(high - low for low, high in _extrema(image))


def is_of_one_colour(image: Image.Image) -> bool:
    """Return whether there is nothing to see in an image."""
    return spread(image) <= LEVELS


def say_of_one_colour(count: int, total: int, whose: str) -> str:
    """Return the line on `count` of `total` images; `whose` such as "images of dreambooth"."""
    return (
        f"{count} of {total} {whose} {'are' if count > 1 else 'is'} of one colour, as a safety"
        " checker or a broken autoencoder leaves them"
    )


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    found: tuple[tuple[int, int], ...] = image.convert("RGB").getextrema()  # type: ignore[assignment]
    return found
