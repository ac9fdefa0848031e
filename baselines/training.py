"""The training loop that the baselines share: seeded draws and AdamW, never waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from PIL.Image import Image, Transpose
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dbbench.backbone import Backbone
from dbbench.latents import Posterior
from dbbench.method import Progress

READ_SECONDS = 0.5  # how often losses are read back; each time waits for the device


class TrainSettings(BaseModel):
    """What every trained method lets one choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    learning_rate: float = Field(
        default=5e-6, gt=0, description="AdamW's learning rate after warm-up"
    )
    batch_size: int = Field(default=1, ge=1, description="reference images in a step")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="course of the learning rate after warm-up; cosine ends at zero",
    )
    warmup_steps: int = Field(
        default=0, ge=0, description="steps of linear rise to the learning rate"
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients are scaled down to this norm"
    )
    horizontal_flip: bool = Field(default=False, description="mirror an image in half of its draws")


@dataclass(frozen=True)
class Draw:
    """The random part of one step, for B latents; the same on every device."""

    index: Tensor
    """(B,) rows of the posterior; flipped images come after all others."""
    timesteps: Tensor
    """(B,)"""
    context: Tensor
    """(B,) which of the method's prompts an image is seen under."""
    noise: Tensor
    """(B, C, h, w), what is added to the latents."""
    posterior_noise: Tensor
    """(B, C, h, w), what draws latents from their posterior."""


def encode_references(
    backbone: Backbone, pools: Sequence[Sequence[Image]], *, flip: bool
) -> Posterior:
    """Encode the images of all pools, one after the other, and then, to `flip`, their mirrors."""
    images = [image for pool in pools for image in pool]
    if flip:
        images += [image.transpose(Transpose.FLIP_LEFT_RIGHT) for image in images]
    return backbone.encode_posterior(images)


def draws(
    backbone: Backbone,
    settings: TrainSettings,
    *,
    pools: Sequence[int],
    seed: int,
    contexts: int = 1,
) -> Iterator[Draw]:
    """Yield each step's draw: `batch_size` images of each pool, shuffled epoch by epoch.

    `pools` are the numbers of images, in the order of `encode_references`.
    """
    generator = torch.Generator().manual_seed(seed)
    steps, size = settings.steps, settings.batch_size
    starts = [0, *accumulate(pools)][:-1]
    index = torch.cat(
        [
            start + _epochs(pool, steps, size, generator)
            for start, pool in zip(starts, pools, strict=True)
        ],
        dim=1,
    )
    if settings.horizontal_flip:
        index += sum(pools) * torch.randint(2, index.shape, generator=generator)
    timesteps = torch.randint(backbone.schedule.timesteps, index.shape, generator=generator)
    context = torch.randint(contexts, index.shape, generator=generator)
    plan = torch.stack([index, timesteps, context], dim=1).to(backbone.device)
    shape = (2, index.shape[1], *backbone.latent_shape)
    for rows, times, prompts in plan:
        noise = torch.randn(shape, generator=generator)
        if backbone.device.type == "cuda":
            noise = noise.pin_memory()  # else the copy waits for the device
        added, posterior = noise.to(backbone.device, non_blocking=True)
        yield Draw(rows, times, prompts, added, posterior)


def train(
    parameters: Sequence[nn.Parameter],
    loss_of: Callable[[Draw], Tensor],
    steps: Iterator[Draw],
    settings: TrainSettings,
    *,
    progress: Progress,
) -> list[float]:
    """Minimise `loss_of` with AdamW and return the loss of each step.

    Raises FloatingPointError, naming the step, where the loss is no longer a number.
    """
    optimizer = torch.optim.AdamW(
        parameters, betas=(0.9, 0.999), weight_decay=settings.weight_decay, fused=True
    )
    losses = torch.zeros(settings.steps, device=parameters[0].device)
    read, last_read = 0, time.monotonic()
    for done, draw in enumerate(steps, start=1):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, done - 1)
        loss = loss_of(draw)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses[done - 1] = loss.detach()
        if done == settings.steps or time.monotonic() - last_read > READ_SECONDS:
            recent = losses[read:done].tolist()
            for step, value in enumerate(recent, start=read + 1):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss is {value} at step {step}; lower the learning rate"
                        f" ({settings.learning_rate:g})"
                    )
            progress(done, settings.steps, {"loss": sum(recent) / len(recent)})
            read, last_read = done, time.monotonic()
    return losses.tolist()


def learning_rate(settings: TrainSettings, step: int) -> float:
    """The learning rate of the step after `step` others: linear warm-up, then the schedule."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    part = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * part)) / 2


def _epochs(pool: int, steps: int, size: int, generator: torch.Generator) -> Tensor:
    """Indices below `pool`, (steps, size): one permutation after another."""
    count = math.ceil(steps * size / pool)
    order = torch.cat([torch.randperm(pool, generator=generator) for _ in range(count)])
    return order[: steps * size].view(steps, size)
