"""Images to latents and back: the backbone's autoencoder, in passes of limited memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from dbbench.errors import UserError
from dbbench.generation.memory import by_parts

PIXELS_PER_PASS = 8 * 512 * 512


@dataclass(frozen=True)
class Posterior:
    """The autoencoder's posterior of N images: mean and deviation of their latents, NCHW, scaled.

    Sampling from it in each step gives the same as encoding the images in each step.
    """

    mean: Tensor
    std: Tensor

    def draw(self, index: Tensor, noise: Tensor) -> Tensor:
        """Sample latents (B, C, h, w) of the images `index` (B,) with standard normal `noise`."""
        return torch.addcmul(self.mean[index], self.std[index], noise)


class LatentCodec:
    """The autoencoder of a diffusers pipeline at one resolution, with its scale and shift."""

    def __init__(self, pipeline: Any, *, resolution: int) -> None:
        self._vae, self._images = pipeline.vae, pipeline.image_processor
        self._resolution = resolution
        self._batch = max(1, PIXELS_PER_PASS // resolution**2)
        self._scale = float(pipeline.vae.config.scaling_factor)
        self._shift = float(getattr(pipeline.vae.config, "shift_factor", None) or 0.0)
        self._mean = _per_channel(pipeline.vae, "latents_mean", 0.0)
        self._std = _per_channel(pipeline.vae, "latents_std", 1.0)

    @torch.no_grad()
    def encode(self, images: Sequence[Image]) -> Posterior:
        """Encode N images, each resized and mapped to [-1, 1]."""
        parts = list(by_parts(len(images), self._batch, lambda rows: self._encode(images[rows])))
        return Posterior(
            torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
        )

    def _encode(self, images: Sequence[Image]) -> Posterior:
        """Encode images in one pass."""
        pixels = self._images.preprocess(
            list(images), height=self._resolution, width=self._resolution
        )
        pixels = pixels.to(self._vae.device, self._vae.dtype, memory_format=torch.channels_last)
        posterior = self._vae.encode(pixels).latent_dist
        mean = _numbers(posterior.mode().float(), "the autoencoder makes of the images")
        scale = self._scale / self._std.to(mean.device)
        std = getattr(posterior, "std", None)  # an autoencoder without one is deterministic
        return Posterior(
            (mean - self._shift - self._mean.to(mean.device)) * scale,
            torch.zeros_like(mean) if std is None else std.float() * scale,
        )

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image]:
        """Decode scaled latents (N, C, h, w) to RGB images.

        Raises UserError for NaN or infinite numbers in the latents or in what comes of them.
        """
        _numbers(latents, "the denoiser gives")
        parts = by_parts(len(latents), self._batch, lambda rows: self._decode(latents[rows]))
        return [image for part in parts for image in part]

    def _decode(self, latents: Tensor) -> list[Image]:
        """Decode latents in one pass."""
        raw = latents * self._std.to(latents.device) / self._scale + self._shift
        pixels = self._vae.decode(raw + self._mean.to(latents.device), return_dict=False)[0]
        pixels = _numbers(pixels.float(), "the autoencoder makes of the latents")
        images: list[Image] = self._images.postprocess(pixels, output_type="pil")
        return images


def _numbers(tensor: Tensor, source: str) -> Tensor:
    """Return the tensor. Raises UserError where not all of it is finite."""
    if torch.isfinite(tensor).all():
        return tensor
    what = "NaN" if tensor.isnan().any() else "infinite numbers"
    raise UserError(
        f"what {source} has {what} in it, which would be black images; its weights are damaged or"
        " their training went wrong, or its precision is too low: use other weights, or"
        " --set backbone.dtype=float32"
    )


def _per_channel(vae: Any, key: str, default: float) -> Tensor:
    """Return a statistic of an autoencoder's latents, (1, C, 1, 1); Playground v2.5 has them."""
    return torch.tensor(getattr(vae.config, key, None) or [default]).view(1, -1, 1, 1)
