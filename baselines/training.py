"""The training loop that the baselines share: seeded draws and AdamW, never waiting."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image, Transpose
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dbbench.baselines.training_state import capture, restore
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.latents import Posterior
from dbbench.generation.memory import fitted
from dbbench.generation.method import Checkpoint, Concept, Diverged, Progress, save_files
from dbbench.generation.resume import Saves

READ_SECONDS = 0.5  # how often losses are read back; each time waits for the device

log = logging.getLogger(__name__)


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
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw", description="adamw8bit saves memory on CUDA; needs bitsandbytes"
    )
    checkpoint: str | None = Field(
        default=None,
        description="weights trained elsewhere, sampled as they are; {subject} in the path is"
        " the subject's name",
    )


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
    rows: slice
    """Where in the step's whole batch these latents are."""

    def __getitem__(self, rows: slice) -> Draw:
        """A part of the step, to be computed by itself."""
        return Draw(
            self.index[rows],
            self.timesteps[rows],
            self.context[rows],
            self.noise[rows],
            self.posterior_noise[rows],
            rows,
        )


def side_by_side(
    steps: Sequence[Iterator[Draw]], *, images: Sequence[int], contexts: int
) -> Iterator[Draw]:
    """Yield the draws of several concepts as one; `images` are the rows of each one's posterior."""
    first = [0, *accumulate(images)]
    for several in zip(*steps, strict=True):
        index = [draw.index + start for draw, start in zip(several, first, strict=False)]
        context = [draw.context + number * contexts for number, draw in enumerate(several)]
        yield Draw(
            torch.cat(index),
            torch.cat([draw.timesteps for draw in several]),
            torch.cat(context),
            torch.cat([draw.noise for draw in several]),
            torch.cat([draw.posterior_noise for draw in several]),
            slice(0, sum(len(part) for part in index)),
        )


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
    timesteps = backbone.schedule.draw(index.shape, generator)
    context = torch.randint(contexts, index.shape, generator=generator)
    plan = torch.stack([index, timesteps, context], dim=1).to(backbone.device)
    shape = (2, index.shape[1], *backbone.latent_shape)
    for rows, times, prompts in plan:
        noise = torch.randn(shape, generator=generator)
        if backbone.device.type == "cuda":
            noise = noise.pin_memory()  # else the copy waits for the device
        added, posterior = noise.to(backbone.device, non_blocking=True)
        yield Draw(rows, times, prompts, added, posterior, slice(0, len(rows)))


@dataclass(frozen=True)
class Training:
    """How a training went: the losses of the good steps, and why it stopped early, if it did."""

    losses: tuple[list[float], ...]
    """For each group of weights."""
    cause: str | None = None

    def keep(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint. Raises Diverged with it where training stopped early."""
        if self.cause is not None:
            raise Diverged(self.cause, checkpoint)
        return checkpoint


def train(
    backbone: Backbone,
    groups: Sequence[Sequence[nn.Parameter]],
    errors_of: Callable[[Draw], Tensor],
    weights: Tensor,
    steps: Iterator[Draw],
    settings: TrainSettings,
    *,
    progress: Progress,
    after_step: Callable[[int], None] | None = None,
    saves: Saves | None = None,
) -> Training:
    """Minimise, for each group of parameters, its weighted sum of errors with AdamW.

    `errors_of` a draw of B latents is (B,), and row g of `weights` (G, B) makes group g's loss of
    it. Groups share the passes through the networks and nothing else. `after_step` is called with
    the number of steps done after each. With `saves` the state is kept on the way, and a
    training that was interrupted goes on with the very same bits.

    Where memory does not suffice, a step is computed in halves, and halves of them. A loss or a
    gradient that is no longer a number stops training: the weights stay those of the step before.
    """
    parameters = [weight for group in groups for weight in group]
    moment_bytes = 4 if settings.optimizer == "adamw" else 1
    batch = weights.shape[1]
    with fitted(backbone, parameters, batch=batch, moment_bytes=moment_bytes) as at_once:
        return _loop(
            groups, errors_of, weights, steps, settings, progress, at_once, after_step, saves
        )


def snapshots(
    concept: Concept,
    settings: TrainSettings,
    files: Callable[[], Mapping[str, Mapping[str, Tensor]]],
) -> Callable[[int], None]:
    """Return what `train` calls after each step to write the concept's snapshots.

    `files` gives a checkpoint's files as they are at that moment.
    """
    shares = {share: max(1, round(share * settings.steps)) for share in concept.snapshots}

    def keep(done: int) -> None:
        for share, step in shares.items():
            if step == done:
                save_files(concept.snapshots[share], files())

    return keep


def _loop(
    groups: Sequence[Sequence[nn.Parameter]],
    errors_of: Callable[[Draw], Tensor],
    weights: Tensor,
    steps: Iterator[Draw],
    settings: TrainSettings,
    progress: Progress,
    at_once: int,
    after_step: Callable[[int], None] | None,
    saves: Saves | None,
) -> Training:
    """Take the steps, `at_once` latents at a time; nothing in here waits for the device."""
    parameters = [weight for group in groups for weight in group]
    optimizer = _optimizer(parameters, settings)
    device = parameters[0].device
    losses = torch.zeros(settings.steps, len(groups), device=device)
    norms = torch.zeros(settings.steps, device=device)
    stopped = torch.zeros((), dtype=torch.float32, device=device)  # as fused AdamW wants it
    optimizer.found_inf = stopped  # AdamW's own way to pass over a step without waiting for it
    first = 0
    if saves is not None and (state := saves.load()) is not None:
        first = saves.resumed_at
        at_once = restore(*state, parameters, optimizer, losses, norms)
        progress(first, settings.steps, {})
    read, last_read = first, time.monotonic()
    # The data's order and noise are drawn anew from the seed, up to where it goes on.
    for done, draw in enumerate(islice(steps, first, None), start=first + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, done - 1)
        at_once = _backward(draw, errors_of, weights, losses[done - 1], at_once, optimizer)
        for group in groups:
            norms[done - 1] += nn.utils.clip_grad_norm_(group, settings.max_grad_norm)
        finite = torch.isfinite(losses[done - 1].sum() + norms[done - 1])
        stopped.copy_(torch.maximum(stopped, (~finite).float()))
        if settings.optimizer == "adamw" or not stopped:
            optimizer.step()
        optimizer.zero_grad()
        if after_step is not None:
            after_step(done)
        if done == settings.steps or time.monotonic() - last_read > READ_SECONDS:
            if stopped:
                return _stopped(losses[:done], norms[:done], settings)
            recent = losses[read:done].mean(dim=0).tolist()
            progress(done, settings.steps, {"loss": sum(recent) / len(recent)})
            read, last_read = done, time.monotonic()
        if saves is not None and done < settings.steps and saves.due(done):
            if stopped:
                return _stopped(losses[:done], norms[:done], settings)
            state = capture(parameters, optimizer, losses, norms, at_once)
            saves.save(done, *state)
            saves.stop.check()
    return Training(tuple(losses.T.tolist()))


def _backward(
    draw: Draw,
    errors_of: Callable[[Draw], Tensor],
    weights: Tensor,
    losses: Tensor,
    at_once: int,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Add the gradients of a step, `at_once` latents at a time, and fill in its losses (G,).

    Returns how many latents at a time there was memory for.
    """
    size = weights.shape[1]
    while True:
        try:
            for start in range(0, size, at_once):
                rows = slice(start, min(start + at_once, size))
                parts = weights[:, rows] @ errors_of(draw[rows])
                parts.sum().backward()
                losses += parts.detach()
            return at_once
        except torch.OutOfMemoryError as error:
            if at_once == 1:
                raise UserError(
                    "out of memory with one image at a time; choose a smaller resolution, a method"
                    " that trains less (dreambooth_lora), or a larger device"
                ) from error
        # Outside of the handler: the error holds on to all that had been computed.
        optimizer.zero_grad()
        losses.zero_()
        at_once = math.ceil(at_once / 2)
        torch.cuda.empty_cache()
        log.warning("out of memory: from here on %d of %d images at a time", at_once, size)


def _optimizer(parameters: Sequence[nn.Parameter], settings: TrainSettings) -> Any:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, betas=(0.9, 0.999), weight_decay=settings.weight_decay, fused=True
        )
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer adamw8bit needs the package bitsandbytes and a CUDA device; install it, or"
            " take adamw"
        ) from None
    return AdamW8bit(parameters, betas=(0.9, 0.999), weight_decay=settings.weight_decay)


def _stopped(losses: Tensor, norms: Tensor, settings: TrainSettings) -> Training:
    """What is left of a training whose loss or gradient is no longer a number."""
    totals = losses.sum(dim=1)
    step = int(torch.isfinite(totals + norms).int().argmin())
    what, value = (
        ("loss", totals[step]) if not totals[step].isfinite() else ("gradient", norms[step])
    )
    cause = (
        f"the {what} is {float(value)} at step {step + 1}; lower the learning rate"
        f" ({settings.learning_rate:g})"
    )
    return Training(tuple(losses[:step].T.tolist()), cause)


def given_checkpoint(settings: TrainSettings, concept: Concept) -> Path | None:
    """Return the path of weights that were trained elsewhere, None where training is asked for.

    Raises UserError where there is nothing.
    """
    if settings.checkpoint is None:
        return None
    path = Path(settings.checkpoint.replace("{subject}", concept.name)).expanduser()
    if not path.exists():
        raise UserError(f'no checkpoint "{path}" for {concept.name}; correct the path')
    return path


def given_word(identifier: str | None, method: str) -> str:
    """The word that weights from elsewhere were trained with; it may be any."""
    if identifier is None:
        raise UserError(
            "name the word that the checkpoint was trained with"
            f" (--set methods.{method}.identifier=sks)"
        )
    return identifier


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file. Raises UserError where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error


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
