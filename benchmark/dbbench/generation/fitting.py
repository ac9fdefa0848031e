"""Fits a training into the memory of a device, with recipes that need less and less.

Before a training the recipe that fits the free memory is chosen and logged. The needs are
estimates; the measured peak of a stage is in `events/` (`peak_cuda_bytes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.memory import available, empty_cache, is_out_of_memory
from dbbench.generation.recipes import Demand, Recipe, What, choose, kept_bytes, report

log = logging.getLogger(__name__)


@dataclass
class Fit:
    """The recipe that a training uses at the moment."""

    backbone: Backbone
    resting: Sequence[str]
    """Parts that no step uses; they can go to the CPU."""
    recipe: Recipe
    batch: int

    def run(self, step: Callable[[int], None], undo: Callable[[], None]) -> None:
        """Call `step` with the number of images per pass.

        Where memory runs out, `undo` what it has done, take the next smaller recipe, and call it
        again with the same random numbers. Raises UserError if there is no smaller recipe.
        """
        random = _random_state(self.backbone.device)
        while True:
            try:
                step(self.recipe.at_once)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if (smaller := self._smaller()) is None:
                    raise UserError(_too_small(self.backbone)) from error
            # Outside the handler, because the exception keeps the computed tensors alive.
            undo()
            self.apply(smaller)
            empty_cache()
            _set_random_state(self.backbone.device, random)
            log.warning("out of memory: continuing with %s", smaller.describe(self.batch))

    def resume(self, at_once: int) -> None:
        """Go on with as many images per pass as before an interruption, for the same bits."""
        self.apply(replace(self.recipe, at_once=at_once))

    def apply(self, recipe: Recipe) -> None:
        """Put the backbone into the state that a recipe asks for."""
        denoiser: Any = self.backbone.module(self.backbone.denoiser)
        self.recipe = recipe
        if recipe.checkpointing:
            denoiser.enable_gradient_checkpointing()
        for part in self.resting if recipe.offload else ():
            self.backbone.module(part).to("cpu")

    def _smaller(self) -> Recipe | None:
        return self.recipe.smaller(offload=self.backbone.device.type != "cpu")


@contextmanager
def fitted(
    backbone: Backbone, trained: Sequence[nn.Parameter], *, batch: int, moment_bytes: int = 4
) -> Iterator[Fit]:
    """Apply the recipe that fits the free memory, inside this context.

    Only CUDA says how much is free; elsewhere a training starts as it is.
    """
    recipe = Recipe(batch)
    if backbone.device.type == "cuda":
        torch.cuda.empty_cache()
        demand = measure(backbone, trained, batch=batch, moment_bytes=moment_bytes)
        free = available(backbone.device)
        recipe = choose(demand, free)
        log.info(report(recipe, demand, free))
    with applied(recipe, backbone, trained) as fit:
        yield fit


@contextmanager
def applied(recipe: Recipe, backbone: Backbone, trained: Sequence[nn.Parameter]) -> Iterator[Fit]:
    """Apply a recipe to the backbone inside this context, and undo it at the end."""
    fit = Fit(backbone, resting_parts(backbone, trained), recipe, recipe.at_once)
    denoiser: Any = backbone.module(backbone.denoiser)
    try:
        fit.apply(recipe)
        yield fit
    finally:
        denoiser.disable_gradient_checkpointing()
        try:
            backbone.gather()
        except Exception as error:
            # The moments may be there still: `Backbone.restore` fetches the rest.
            if not is_out_of_memory(error):
                raise


def measure(
    backbone: Backbone, trained: Sequence[nn.Parameter], *, batch: int, moment_bytes: int = 4
) -> Demand:
    """Return the demand of training these weights on this backbone."""
    denoiser: Any = backbone.module(backbone.denoiser)
    parts = {part: backbone.module(part) for part in (*backbone.parts, "vae")}
    resting = resting_parts(backbone, trained)
    in_step = [module for part, module in parts.items() if part not in resting]
    _, height, width = backbone.latent_shape
    config = denoiser.config
    channels = (config.get("block_out_channels") or (config.get("caption_projection_dim"),))[0]
    return Demand(
        held=sum(map(_bytes, parts.values())),
        resting=sum(_bytes(parts[part]) for part in resting),
        copies=sum(map(_copied, in_step)) if backbone.is_half else 0,
        trained=sum(weight.numel() for weight in trained),
        kept=kept_bytes(
            type(backbone.pipeline).__name__,
            _what(backbone, trained),
            pixels=height * width,
            channels=int(channels),
        ),
        batch=batch,
        bytes_per_moment=moment_bytes,
    )


def resting_parts(backbone: Backbone, trained: Sequence[nn.Parameter]) -> list[str]:
    """Return the parts that no step uses: the autoencoder, and text encoders if none is trained."""
    learning = {id(weight) for weight in trained}
    of_denoiser = {id(w) for w in backbone.module(backbone.denoiser).parameters()}
    return ["vae", *(backbone.text_encoders if learning <= of_denoiser else ())]


def _what(backbone: Backbone, trained: Sequence[nn.Parameter]) -> What:
    """Return which of the counted trainings is the nearest."""
    denoiser = list(backbone.module(backbone.denoiser).parameters())
    own = {id(weight) for weight in denoiser}
    inside = sum(weight.numel() for weight in trained if id(weight) in own)
    if inside > sum(weight.numel() for weight in denoiser) / 2:
        return "whole"
    return "adapters" if {id(weight) for weight in trained} <= own else "words"


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _copied(module: nn.Module) -> int:
    """Return the bytes of the bfloat16 copies that autocast makes of float32 weights."""
    return sum(2 * weight.numel() for weight in module.parameters() if weight.element_size() == 4)


def _too_small(backbone: Backbone) -> str:
    rest = (
        "" if backbone.is_held_half or not backbone.is_half else ", --set backbone.frozen=bfloat16"
    )
    return (
        "out of memory with one image at a time; choose a smaller resolution, a method that trains"
        f" fewer weights (dreambooth_lora), --set train.optimizer=adamw8bit{rest}, fewer"
        " --jobs-per-device, or a device with more memory"
    )


def _random_state(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
