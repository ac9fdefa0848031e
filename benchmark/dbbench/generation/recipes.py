"""How much memory a training needs, and the recipes that need less: arithmetic, no torch.

Weights, gradients and moments are counted exactly. What one image keeps for the backward pass was
counted at real size by benchmark/measurements/speed/activations.py, under CUDA's autocast rules and
with attention that keeps no matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

GIB = 2**30
SPARE = 1.5 * GIB  # the CUDA context, workspaces, and memory fragmentation
# Gradient checkpointing keeps each block's input, and one block's activations at a time.
CHECKPOINTED = 0.2

What = Literal["whole", "adapters", "words"]
"""What is trained: most of the denoiser; a few weights in it; vectors that the text encoders read.
"""

# GiB that an image keeps in suites paper, sdxl and sd3: at 512, 1024 and 1024 pixels.
COUNTED: Mapping[str, tuple[int, Mapping[What, float]]] = {
    "StableDiffusionPipeline": (64 * 64 * 320, {"whole": 1.16, "adapters": 1.06, "words": 0.93}),
    "StableDiffusionXLPipeline": (
        128 * 128 * 320,
        {"whole": 8.09, "adapters": 7.18, "words": 6.3},
    ),
    "StableDiffusion3Pipeline": (
        128 * 128 * 1536,
        {"whole": 8.27, "adapters": 4.88, "words": 7.28},
    ),
}


def kept_bytes(pipeline: str, what: What, *, pixels: int, channels: int) -> int:
    """Return the bytes that an image keeps: in proportion to latent pixels and channels.

    `channels` are those of the denoiser's first layer.
    """
    size, gigabytes = COUNTED[pipeline]
    return int(gigabytes[what] * GIB * pixels * channels / size)


@dataclass(frozen=True)
class Demand:
    """The sizes that determine a training's memory, in bytes unless stated."""

    held: int
    """All networks as they are held on the device."""
    resting: int
    """Those that no step uses, once latents and text are encoded."""
    copies: int
    """bfloat16 copies of weights that a pass makes and keeps for its backward pass."""
    trained: int
    """Weights that get gradients; a number."""
    kept: int
    """What one image keeps for the backward pass."""
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
        weights = demand.held - (demand.resting if self.offload else 0) + demand.copies
        training = (4 + 2 * demand.bytes_per_moment) * demand.trained
        kept = self.at_once * demand.kept * (CHECKPOINTED if self.checkpointing else 1)
        return int(weights + training + kept + SPARE)

    def smaller(self, *, offload: bool = True) -> Recipe | None:
        """Return the next recipe that needs less; None if there is none.

        First come networks on the CPU, if there is anything to gain (`offload`), which costs
        nothing in a step, then fewer images in a pass, then checkpointing, which costs a third.
        """
        if offload and not self.offload:
            return replace(self, offload=True)
        if self.at_once > 1:
            return replace(self, at_once=(self.at_once + 1) // 2)
        return None if self.checkpointing else replace(self, checkpointing=True)

    def describe(self, batch: int) -> str:
        """Return what it does to a step of `batch` images."""
        what = [f"{self.at_once} of {batch} images at a time"]
        if self.checkpointing:
            what.append("gradient checkpointing")
        if self.offload:
            what.append("autoencoder and text encoders on the CPU")
        return ", ".join(what)


def choose(demand: Demand, free: int) -> Recipe:
    """Return the fastest recipe that fits into `free` bytes, or the smallest if none fits."""
    recipe = Recipe(demand.batch)
    while recipe.estimate(demand) > free and (smaller := recipe.smaller()) is not None:
        recipe = smaller
    return recipe


def report(recipe: Recipe, demand: Demand, free: int) -> str:
    """Return one line for the log: the recipe, its needs, and what to do if they are too large."""
    peak = recipe.estimate(demand)
    advice = f"; this does not fit: {remedies(demand)}" if peak > free else ""
    return (
        f"memory: {free / GIB:.0f} GiB free; {recipe.describe(demand.batch)}; estimated peak"
        f" {peak / GIB:.0f} GiB, not measured{advice}"
    )


def remedies(demand: Demand) -> str:
    """Say what the user can change so that a training needs less."""
    found = []
    if demand.trained * 8 > demand.held:  # in bytes, about half of all weights
        found.append("dreambooth_lora")
    if demand.bytes_per_moment > 1 and demand.trained * 8 > GIB:
        found.append("--set train.optimizer=adamw8bit")
    if demand.held > 3 * demand.trained * 4:
        found.append("--set backbone.frozen=bfloat16")
    return "use " + " or ".join(found) if found else "choose a smaller resolution"
