"""The embedded backbone's autoencoder: principal components of 8x8 patches, and a decoder.

The encoder is linear, in closed form: a patch becomes its first `latent_channels` principal
components, each divided by the square root of its standard deviation. This is half whitening: fine
detail weighs more than in pixels, and less than with full whitening. The decoder is the transpose
plus a small convolutional correction, which restores straight edges and flat fills.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from typing_extensions import override


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return y


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """RGB in -1..1 (N, 3, 8h, 8w) to latents (N, latent_channels, h, w) and back."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        patch: int = 8,
        width: int = 96,
        scaling_factor: float = 1.0,
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),  # diffusers: 2 ** (len - 1) = patch
    ) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, latent_channels, patch, stride=patch)
        self.synthesis = nn.ConvTranspose2d(latent_channels, 3, patch, stride=patch)
        self.refine = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, width * 2, 1),
            nn.PixelShuffle(2),
            _Residual(width // 2),
            nn.Conv2d(width // 2, width, 1),
            nn.PixelShuffle(2),
            _Residual(width // 4),
            nn.SiLU(),
            last := nn.Conv2d(width // 4, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        for weight in last.parameters():
            nn.init.zeros_(weight)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Encode images to a distribution of one point, as the encoder is deterministic."""
        point = IdentityDistribution(self.analysis(x))
        return AutoencoderKLOutput(point) if return_dict else (point,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> Any:
        """Decode latents (N, latent_channels, h, w) to RGB images in -1..1 (N, 3, 8h, 8w)."""
        image = self.synthesis(z) + self.refine(z)
        return DecoderOutput(image) if return_dict else (image,)

    @override
    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.decode(self.encode(x).latent_dist.mode()).sample
        return image

    @torch.no_grad()
    def set_components(self, images: Tensor) -> None:
        """Set both linear maps from the principal components of the images' patches.

        `images` are (N, 3, H, W) in -1..1. Latents get a variance of one over all channels.
        """
        patch, channels = self.config.patch, self.config.latent_channels
        rows = F.unfold(images, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch**2)
        mean = rows.mean(0)
        covariance = torch.cov((rows - mean).T.double())
        values, vectors = torch.linalg.eigh(covariance)
        deviation = values.flip(0)[:channels].clamp_min(1e-12).sqrt().float()
        basis = vectors.flip(1)[:, :channels].T.float()  # (channels, 3 * patch ** 2)
        gain = deviation.rsqrt()
        gain = gain / (gain * deviation).square().mean().sqrt()  # unit variance over all channels
        kernel = (basis * gain[:, None]).reshape(channels, 3, patch, patch)
        linear = {
            "analysis.weight": kernel,
            "analysis.bias": -(basis @ mean) * gain,
            "synthesis.weight": (basis / gain[:, None]).reshape(channels, 3, patch, patch),
            # Only the color of the mean patch; the decoder's correction learns the rest.
            "synthesis.bias": mean.reshape(3, -1).mean(1),
        }
        self.load_state_dict(linear, strict=False)
