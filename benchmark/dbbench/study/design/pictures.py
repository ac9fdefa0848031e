"""Copy images into a study's folder under opaque ids, without metadata; `create` calls it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dbbench.errors import UserError
from dbbench.storage.run_folder import read_file
from dbbench.study.design.runs import RealImage
from dbbench.study.design.secret import Secrets

REFERENCE_SIDE = 512
"""Largest side of a reference image in pixels; generated images keep their own size."""
TILES, TILE = 4, 64
"""A mixed image has 4 x 4 tiles of 64 pixels."""


class Copier:
    """Writes each image once, as lossless WebP without metadata, under an opaque id."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self._folder, self._secrets = folder, secrets
        self.files: dict[str, str] = {}
        self.side = 0

    def copy(self, path: Path) -> str:
        """Copy a generated image, pixel for pixel; return its id."""

        def read() -> Image.Image:
            image = _open(path)
            self.side = max(self.side, *image.size)
            return image

        return self._save(("image", str(path)), read)

    def real(self, reference: RealImage) -> str:
        """Copy a reference image, at most REFERENCE_SIDE pixels on a side; return its id."""

        def read() -> Image.Image:
            image = _open(Path(reference.place))
            image.thumbnail((REFERENCE_SIDE, REFERENCE_SIDE), Image.Resampling.LANCZOS)
            return image

        return self._save(("image", reference.place), read)

    def mixed(self, reference: RealImage, rng: np.random.Generator) -> str:
        """Copy a reference image with its tiles in another order; return its id."""
        order = rng.permutation(TILES * TILES)

        def read() -> Image.Image:
            side = TILES * TILE
            image = _open(Path(reference.place)).resize((side, side), Image.Resampling.LANCZOS)
            pixels = np.asarray(image).reshape(TILES, TILE, TILES, TILE, 3)
            tiles = pixels.swapaxes(1, 2).reshape(TILES * TILES, TILE, TILE, 3)
            grid = tiles[order].reshape(TILES, TILES, TILE, TILE, 3)
            return Image.fromarray(grid.swapaxes(1, 2).reshape(side, side, 3))

        return self._save(("mixed", reference.place, *order.tolist()), read)

    def _save(self, key: tuple[str | int, ...], read: Callable[[], Image.Image]) -> str:
        name = self._secrets.opaque(*key)
        if name not in self.files:
            file = f"{name}.webp"
            read().save(self._folder / file, format="WEBP", lossless=True, quality=40, method=2)
            self.files[name] = file
        return name


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(BytesIO(read_file(path))) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); rerun the same dbbench run to repair it"
        ) from None
