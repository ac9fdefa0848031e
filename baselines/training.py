"""The training loop that all baselines share: seeded batches and AdamW.

The train stage calls a method's `fit`, which calls `train`. The loop does not wait for the device,
except to read losses and to save its state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image, Transpose
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dbbench.advance import Advance
from dbbench.baselines.step import Step, StepBatch
from dbbench.baselines.training_state import capture, restore
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.fitting import Fit, fitted
from dbbench.generation.latents import Posterior
from dbbench.generation.method import Checkpoint, Concept, Diverged, save_files
from dbbench.generation.resume import Saves

READ_SECONDS = 0.5  # interval between reads of the losses; each read waits for the device


class TrainSettings(BaseModel):
    """Settings that all trained methods share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    learning_rate: float = Field(
        default=5e-6, gt=0, description="AdamW's learning rate after warm-up"
    )
    batch_size: int = Field(default=1, ge=1, description="reference images per step")
    lr_schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="learning-rate schedule after warm-up; cosine decays to zero",
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients are clipped to this norm"
    )
    horizontal_flip: bool = Field(
        default=False, description="mirror each drawn image with probability 1/2"
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw", description="adamw8bit saves memory on CUDA; needs bitsandbytes"
    )
    checkpoint: str | None = Field(
        default=None,
        description="path of weights trained elsewhere, used without training; {subject} in it is"
        " replaced by the subject's name",
    )


def join_batches(
    steps: Sequence[Iterator[StepBatch]], *, images: Sequence[int], contexts: int
) -> Iterator[StepBatch]:
    """Yield the batches of several concepts as one; `images` counts each one's posterior rows."""
    first = [0, *accumulate(images)]
    for several in zip(*steps, strict=True):
        index = [batch.index + start for batch, start in zip(several, first, strict=False)]
        context = [batch.context + number * contexts for number, batch in enumerate(several)]
        yield StepBatch(
            torch.cat(index),
            torch.cat([batch.timesteps for batch in several]),
            torch.cat(context),
            torch.cat([batch.noise for batch in several]),
            torch.cat([batch.posterior_noise for batch in several]),
            slice(0, sum(len(part) for part in index)),
        )


def encode_references(
    backbone: Backbone, pools: Sequence[Sequence[Image]], *, flip: bool
) -> Posterior:
    """Encode the images of all pools in order; with `flip`, their mirror images follow."""
    images = [image for pool in pools for image in pool]
    if flip:
        images += [image.transpose(Transpose.FLIP_LEFT_RIGHT) for image in images]
    return backbone.encode_posterior(images)


def step_batches(
    backbone: Backbone,
    settings: TrainSettings,
    *,
    pools: Sequence[int],
    seed: int,
    contexts: int = 1,
) -> Iterator[StepBatch]:
    """Yield one batch a step: `batch_size` images of each pool, shuffled anew in each epoch.

    `pools` are image counts, in the order of `encode_references`.
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
            noise = noise.pin_memory()  # otherwise the copy waits for the device
        added, posterior = noise.to(backbone.device, non_blocking=True)
        yield StepBatch(rows, times, prompts, added, posterior, slice(0, len(rows)))


@dataclass(frozen=True)
class Training:
    """Result of a training: the losses of the valid steps, and why it stopped early, if so."""

    losses: tuple[list[float], ...]
    """One list for each parameter group."""
    cause: str | None = None

    def keep(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint. Raises Diverged, which carries it, if training stopped early."""
        if self.cause is not None:
            raise Diverged(self.cause, checkpoint)
        return checkpoint


def train(
    backbone: Backbone,
    groups: Sequence[Sequence[nn.Parameter]],
    errors_of: Callable[[StepBatch], Tensor],
    weights: Tensor,
    steps: Iterator[StepBatch],
    settings: TrainSettings,
    *,
    progress: Advance,
    after_step: Callable[[int], None] | None = None,
    saves: Saves | None = None,
) -> Training:
    """Minimise each parameter group's weighted sum of errors with AdamW.

    `errors_of(batch)` returns errors (B,). Row g of `weights` (G, B) weighs them into the loss of
    group g. Groups share the forward and backward passes, and nothing else. After each step,
    `after_step` gets the number of steps done. With `saves` the state is saved at intervals, and
    an interrupted training resumes bit for bit.

    If memory is too small, a step is done again with the next smaller recipe, such as passes of
    half the size, repeatedly if needed.
    A NaN or infinite loss or gradient stops training; the weights stay those of the step before.
    """
    parameters = [weight for group in groups for weight in group]
    moment_bytes = 4 if settings.optimizer == "adamw" else 1
    batch = weights.shape[1]
    with fitted(backbone, parameters, batch=batch, moment_bytes=moment_bytes) as fit:
        return _loop(groups, errors_of, weights, steps, settings, progress, fit, after_step, saves)


def snapshots(
    concept: Concept,
    settings: TrainSettings,
    files: Callable[[], Mapping[str, Mapping[str, Tensor]]],
) -> Callable[[int], None]:
    """Return an `after_step` callback for `train` that writes the concept's snapshots.

    `files` returns the checkpoint's files with the current weights.
    """
    shares = {share: max(1, round(share * settings.steps)) for share in concept.snapshots}

    def keep(done: int) -> None:
        for share, step in shares.items():
            if step == done:
                save_files(concept.snapshots[share], files())

    return keep


def _loop(
    groups: Sequence[Sequence[nn.Parameter]],
    errors_of: Callable[[StepBatch], Tensor],
    weights: Tensor,
    steps: Iterator[StepBatch],
    settings: TrainSettings,
    progress: Advance,
    fit: Fit,
    after_step: Callable[[int], None] | None,
    saves: Saves | None,
) -> Training:
    """Run the steps with the recipe that fits."""
    parameters = [weight for group in groups for weight in group]
    optimizer = _optimizer(parameters, settings)
    device = parameters[0].device
    losses = torch.zeros(settings.steps, len(groups), device=device)
    norms = torch.zeros(settings.steps, device=device)
    stopped = torch.zeros((), dtype=torch.float32, device=device)  # the type that fused AdamW needs
    optimizer.found_inf = stopped  # AdamW skips its step where this is set, without a wait
    first = 0
    if saves is not None and (state := saves.load()) is not None:
        first = saves.resumed_at
        take_up = partial(restore, *state, parameters, optimizer, losses, norms)
        fit.run(lambda _: fit.resume(take_up()), undo=optimizer.state.clear)
        progress(first, settings.steps, {})
    read, last_read = first, time.monotonic()
    # Draw the skipped batches again from the seed, so that the generator is in the same state.
    for done, batch in enumerate(islice(steps, first, None), start=first + 1):
        optimizer.param_groups[0]["lr"] = learning_rate(settings, done - 1)
        here = Step(
            batch, groups, optimizer, losses[done - 1], norms[done - 1], stopped,
            max_grad_norm=settings.max_grad_norm, fused=settings.optimizer == "adamw",
        )  # fmt: skip
        fit.run(partial(here.do, errors_of, weights), here.undo)
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
            state = capture(parameters, optimizer, losses, norms, fit.recipe.at_once)
            saves.save(done, *state)
            saves.stop.check()
    return Training(tuple(losses.T.tolist()))


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
            " use adamw"
        ) from None
    return AdamW8bit(parameters, betas=(0.9, 0.999), weight_decay=settings.weight_decay)


def _stopped(losses: Tensor, norms: Tensor, settings: TrainSettings) -> Training:
    """Return the losses before the first NaN or infinite loss or gradient, and the cause."""
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
    """Return the path of weights trained elsewhere, or None if the method is trained here.

    Raises UserError if there is no such path.
    """
    if settings.checkpoint is None:
        return None
    path = Path(settings.checkpoint.replace("{subject}", concept.name)).expanduser()
    if not path.exists():
        raise UserError(f'no checkpoint "{path}" for {concept.name}; correct the path')
    return path


def given_word(identifier: str | None, method: str) -> str:
    """Return the identifier that weights from elsewhere were trained with; any word is accepted."""
    if identifier is None:
        raise UserError(
            "set the identifier that the checkpoint was trained with"
            f" (--set methods.{method}.identifier=sks)"
        )
    return identifier


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate after `step` completed steps: linear warm-up, then the schedule."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    part = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * part)) / 2


def _epochs(pool: int, steps: int, size: int, generator: torch.Generator) -> Tensor:
    """Return indices below `pool`, (steps, size): one random permutation an epoch."""
    count = math.ceil(steps * size / pool)
    order = torch.cat([torch.randperm(pool, generator=generator) for _ in range(count)])
    return order[: steps * size].view(steps, size)
