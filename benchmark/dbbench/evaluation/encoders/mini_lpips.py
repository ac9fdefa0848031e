"""LPIPS of the embedded world ("mini-lpips"): perceptual distance of drawings; for DIV in mini.

LPIPS (Zhang et al., arXiv 1801.03924) compares features of unit length at each position and layer.
Here the features come from all four blocks of mini-dino, with equal weights, because the embedded
world has no human judgements to learn weights from. The distance is the mean squared difference
over blocks and positions, in [0, 4].
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

from dbbench.errors import UserError
from dbbench.evaluation.encoder import encoder_fingerprint
from dbbench.evaluation.encoders.mini import load_dino
from dbbench.evaluation.encoders.timm import TimmEncoder


def load(argument: str, *, device: str) -> MiniLpips:
    """Return the distance; it takes no argument."""
    if argument:
        raise UserError(f'encoder "mini-lpips:{argument}" takes no argument; write "mini-lpips"')
    return MiniLpips(load_dino("", device=device))


class MiniLpips:
    """Squared distances between unit features at every position of every block of a ViT."""

    name = "mini-lpips"

    def __init__(self, vit: TimmEncoder) -> None:
        self._vit = vit

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the ViT's own fingerprint and the comparison of its features."""
        return encoder_fingerprint(
            weights=self._vit.fingerprint,
            library=f"timm {timm.__version__}",
            preprocessing={"features": "all blocks, unit length by position", "weights": "equal"},
            dtype="float32",
        )

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input size."""
        return self._vit.prepare(image)

    def pairwise_distances(self, images: Iterable[Image.Image]) -> NDArray[np.float64]:
        """N images -> NN float64, symmetric, zeros on the diagonal; each goes through once."""
        prepared = [self.prepare(image) for image in images]
        if not prepared:
            return np.zeros((0, 0))
        # Each position has length one. So a unit row is the features over sqrt(positions), and the
        # squared distance of two rows is the mean over blocks and positions.
        rows = self._vit.encode(prepared, self._vit.stack, self._features).astype(np.float64)
        distances = np.maximum(2.0 - 2.0 * (rows @ rows.T), 0.0)
        np.fill_diagonal(distances, 0.0)
        return np.asarray((distances + distances.T) / 2)

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """Images N3HW -> ND: features of all blocks and positions, concatenated."""
        blocks = self._vit._model.forward_intermediates(
            batch, intermediates_only=True, output_fmt="NCHW"
        )
        unit = [torch.nn.functional.normalize(block, dim=1).flatten(1) for block in blocks]
        return torch.cat(unit, dim=1)
