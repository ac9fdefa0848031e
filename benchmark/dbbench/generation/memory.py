"""Fits a training into a CUDA device: chooses pass size and offloading by free memory.

The choice is logged. Memory needs are estimates: exact for weights, gradients and optimizer, not
for activations. The measured peak of a stage is in `events/` (`peak_cuda_bytes`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dbbench.generation.backbone import Backbone

log = logging.getLogger(__name__)

GIB = 2**30
SPARE = 1.5 * GIB  # the CUDA context, workspaces, and memory fragmentation
# Activation bytes kept for the backward pass, per latent pixel and channel of the denoiser's first
# layer, in bfloat16 with fused attention: 3.5 GiB for an image of Stable Diffusion 1.5 at 512 px.
KEPT_PER_PIXEL_AND_CHANNEL = 2800
# Gradient checkpointing keeps each block's input, and one block's activations at a time.
CHECKPOINTED = 0.2


@dataclass(frozen=True)
class Demand:
    """The sizes that determine a training's memory, in weights unless stated."""

    denoiser: int
    """Weights of the denoiser."""
    helpers: int
    """Weights of autoencoder and text encoders."""
    resting: int
    """Those of the helpers that no step uses, once latents and text are encoded."""
    trained: int
    """Weights that get gradients."""
    kept: int
    """Activation bytes that one image keeps for the backward pass."""
    batch: int
    """Images in a step."""
    bytes_per_moment: int = 4
    """Bytes per weight of each of AdamW's two moments; 1 with 8-bit AdamW."""


@dataclass(frozen=True)
class Recipe:
    """How a training saves memory; it changes the result only by rounding."""

    at_once: int
    """Images per pass; gradients of a step's passes are accumulated."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    offload: bool = False
    """Move networks that no step uses to the CPU while training."""

    def estimate(self, demand: Demand) -> int:
        """Return the estimated peak in bytes."""
        helpers = demand.helpers - (demand.resting if self.offload else 0)
        weights = (
            4 * (demand.denoiser + helpers) + 2 * demand.denoiser
        )  # float32, and the bfloat16 copy
        training = (4 + 2 * demand.bytes_per_moment) * demand.trained
        kept = self.at_once * demand.kept * (CHECKPOINTED if self.checkpointing else 1)
        return int(weights + training + kept + SPARE)

    def describe(self, demand: Demand, free: int) -> str:
        """Return one line for the log."""
        what = [f"{self.at_once} of {demand.batch} images at a time"]
        if self.checkpointing:
            what.append("gradient checkpointing")
        if self.offload:
            what.append("autoencoder and text encoders on the CPU")
        peak = self.estimate(demand)
        advice = (
            "; this does not fit: use dreambooth_lora or --set train.optimizer=adamw8bit"
            if peak > free
            else ""
        )
        return (
            f"memory: {free / GIB:.0f} GiB free; {', '.join(what)}; estimated peak"
            f" {peak / GIB:.0f} GiB, not measured{advice}"
        )


def choose(demand: Demand, free: int) -> Recipe:
    """Return the fastest recipe that fits into `free` bytes, or the smallest if none fits."""
    sizes = [demand.batch]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    recipes = [
        Recipe(demand.batch),
        Recipe(demand.batch, offload=True),
        *(Recipe(size, checkpointing=True, offload=True) for size in sizes),
    ]
    return next((recipe for recipe in recipes if recipe.estimate(demand) <= free), recipes[-1])


def measure(
    backbone: Backbone, trained: Sequence[nn.Parameter], *, batch: int, moment_bytes: int = 4
) -> Demand:
    """Return the demand of training these weights on this backbone."""
    denoiser: Any = backbone.module(backbone.denoiser)
    sizes = {
        part: sum(weight.numel() for weight in backbone.module(part).parameters())
        for part in (*backbone.text_encoders, "vae")
    }
    _, height, width = backbone.latent_shape
    config = denoiser.config
    channels = (config.get("block_out_channels") or (config.get("caption_projection_dim"),))[0]
    return Demand(
        denoiser=sum(weight.numel() for weight in denoiser.parameters()),
        helpers=sum(sizes.values()),
        resting=sum(sizes[part] for part in resting_parts(backbone, trained)),
        trained=sum(weight.numel() for weight in trained),
        kept=height * width * int(channels) * KEPT_PER_PIXEL_AND_CHANNEL,
        batch=batch,
        bytes_per_moment=moment_bytes,
    )


def resting_parts(backbone: Backbone, trained: Sequence[nn.Parameter]) -> list[str]:
    """Return the parts that no step uses: the autoencoder, and text encoders if none is trained."""
    learning = {id(weight) for weight in trained}
    of_denoiser = {id(w) for w in backbone.module(backbone.denoiser).parameters()}
    return ["vae", *(backbone.text_encoders if learning <= of_denoiser else ())]


@contextmanager
def fitted(
    backbone: Backbone, trained: Sequence[nn.Parameter], *, batch: int, moment_bytes: int = 4
) -> Iterator[int]:
    """Apply the recipe that fits the free memory, inside this context; yield the images per pass.

    On other devices than CUDA nothing changes.
    """
    if backbone.device.type != "cuda":
        yield batch
        return
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(backbone.device)
    demand = measure(backbone, trained, batch=batch, moment_bytes=moment_bytes)
    # Memory of loaded networks counts as free, because the estimate includes them.
    free += torch.cuda.memory_allocated(backbone.device)
    recipe = choose(demand, free)
    log.info(recipe.describe(demand, free))
    with applied(recipe, backbone, trained):
        yield recipe.at_once


@contextmanager
def applied(recipe: Recipe, backbone: Backbone, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Apply a recipe to the backbone inside this context, and undo it at the end."""
    denoiser: Any = backbone.module(backbone.denoiser)
    parts = resting_parts(backbone, trained) if recipe.offload else []
    try:
        if recipe.checkpointing:
            denoiser.enable_gradient_checkpointing()
        for part in parts:
            backbone.module(part).to("cpu")
        yield
    finally:
        denoiser.disable_gradient_checkpointing()
        for part in parts:
            backbone.module(part).to(backbone.device)
