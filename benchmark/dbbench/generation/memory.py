"""How a training fits into a CUDA device: the recipe is chosen from the free memory, and said.

The needs are estimates: what weights, gradients and optimizer hold is exact, what a pass keeps for
its way back is not. What a stage really took is in `events/` (`peak_cuda_bytes`).
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
SPARE = 1.5 * GIB  # the CUDA context, workspaces, and what the allocator cannot use
# Bytes kept for the way back per latent pixel and per channel of the denoiser's first layer, in
# bfloat16 with fused attention: about 3.5 GiB for one image of Stable Diffusion 1.5 at 512 px.
KEPT_PER_PIXEL_AND_CHANNEL = 2800
# With gradient checkpointing only each block's input is kept, and one block's inside at a time.
CHECKPOINTED = 0.2


@dataclass(frozen=True)
class Demand:
    """What a training asks of a device."""

    denoiser: int
    """Weights of the denoiser."""
    helpers: int
    """Weights of autoencoder and text encoders."""
    resting: int
    """Those of them that no step uses, once latents and text are encoded."""
    trained: int
    """Weights that get gradients."""
    kept: int
    """Bytes that one image's pass keeps for its way back."""
    batch: int
    """Images in a step."""
    bytes_per_moment: int = 4
    """Of each of AdamW's two moments; 1 with 8 bits."""


@dataclass(frozen=True)
class Recipe:
    """How a training is done; none of it changes what is learned but by rounding."""

    at_once: int
    """Images in a pass; the rest of a step follows, and gradients add up."""
    checkpointing: bool = False
    """Compute the insides of blocks twice in place of keeping them."""
    offload: bool = False
    """Put what no step uses on the CPU while training."""

    def estimate(self, demand: Demand) -> int:
        """Bytes at the peak."""
        helpers = demand.helpers - (demand.resting if self.offload else 0)
        weights = 4 * (demand.denoiser + helpers) + 2 * demand.denoiser  # float32, and its halves
        training = (4 + 2 * demand.bytes_per_moment) * demand.trained
        kept = self.at_once * demand.kept * (CHECKPOINTED if self.checkpointing else 1)
        return int(weights + training + kept + SPARE)

    def describe(self, demand: Demand, free: int) -> str:
        """Say it in one line."""
        what = [f"{self.at_once} of {demand.batch} images at a time"]
        if self.checkpointing:
            what.append("gradient checkpointing")
        if self.offload:
            what.append("autoencoder and text encoders on the CPU")
        peak = self.estimate(demand)
        advice = (
            "; that does not fit: take dreambooth_lora or --set train.optimizer=adamw8bit"
            if peak > free
            else ""
        )
        return (
            f"memory: {free / GIB:.0f} GiB free; {', '.join(what)}; estimated peak"
            f" {peak / GIB:.0f} GiB, not measured{advice}"
        )


def choose(demand: Demand, free: int) -> Recipe:
    """Return the fastest recipe that fits into `free` bytes, or the smallest where none does."""
    sizes = [demand.batch]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    whole = demand.batch
    recipes = [
        Recipe(whole),
        Recipe(whole, offload=True),
        Recipe(whole, checkpointing=True, offload=True),
        *(Recipe(size, checkpointing=True, offload=True) for size in sizes[1:]),
    ]
    return next((recipe for recipe in recipes if recipe.estimate(demand) <= free), recipes[-1])


def measure(
    backbone: Backbone, trained: Sequence[nn.Parameter], *, batch: int, moment_bytes: int = 4
) -> Demand:
    """Return what a training of these weights asks for on this backbone."""
    denoiser: Any = backbone.module(backbone.denoiser)
    learning = {id(weight) for weight in trained}
    helpers = {part: backbone.module(part) for part in (*backbone.text_encoders, "vae")}
    sizes = {part: sum(w.numel() for w in module.parameters()) for part, module in helpers.items()}
    resting = {part: sizes[part] for part in resting_parts(backbone, trained)}
    _, height, width = backbone.latent_shape
    config = denoiser.config
    channels = (config.get("block_out_channels") or (config.get("caption_projection_dim"),))[0]
    return Demand(
        denoiser=sum(weight.numel() for weight in denoiser.parameters()),
        helpers=sum(sizes.values()),
        resting=sum(resting.values()),
        trained=sum(weight.numel() for weight in trained if id(weight) in learning),
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
    """Apply the recipe for this device's free memory while open; give the images in a pass.

    Anywhere but on CUDA nothing is changed.
    """
    if backbone.device.type != "cuda":
        yield batch
        return
    import torch

    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(backbone.device)
    demand = measure(backbone, trained, batch=batch, moment_bytes=moment_bytes)
    # What is loaded already is part of the estimate, so it counts as free.
    free += torch.cuda.memory_allocated(backbone.device)
    recipe = choose(demand, free)
    log.info(recipe.describe(demand, free))
    with applied(recipe, backbone, trained):
        yield recipe.at_once


@contextmanager
def applied(recipe: Recipe, backbone: Backbone, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Change the backbone as a recipe says, and back."""
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
