"""One step of a training: its random choices, its passes, and how it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dbbench.errors import UserError


@dataclass(frozen=True)
class StepBatch:
    """The random choices of one training step, for B latents; the same on every device."""

    index: Tensor
    """(B,) rows of the posterior; mirrored images come after all originals."""
    timesteps: Tensor
    """(B,)"""
    context: Tensor
    """(B,) index of each image's training prompt."""
    noise: Tensor
    """(B, C, h, w), the noise added to the latents."""
    posterior_noise: Tensor
    """(B, C, h, w), the noise that samples latents from their posterior."""
    rows: slice
    """Position of these latents in the step's whole batch."""

    def __getitem__(self, rows: slice) -> StepBatch:
        """Return a part of the batch, for a pass of its own."""
        return StepBatch(
            self.index[rows],
            self.timesteps[rows],
            self.context[rows],
            self.noise[rows],
            self.posterior_noise[rows],
            rows,
        )


@dataclass
class Step:
    """One optimizer step, which can be undone and done again where memory runs out in it."""

    batch: StepBatch
    groups: Sequence[Sequence[nn.Parameter]]
    optimizer: Any
    losses: Tensor
    """(G,), to be filled in."""
    norm: Tensor
    """A scalar, to be filled in."""
    stopped: Tensor
    """A scalar: 1 from the first loss or gradient on that is no number."""
    max_grad_norm: float
    fused: bool
    """Whether the optimizer is torch's AdamW, which skips its step where `stopped` is set."""
    updating: bool = False

    def __post_init__(self) -> None:
        self.first = not self.optimizer.state

    def do(
        self,
        errors_of: Callable[[StepBatch], Tensor],
        weights: Tensor,
        at_once: int,
    ) -> None:
        """Take the step, `at_once` latents in a pass."""
        _backward(self.batch, errors_of, weights, self.losses, at_once)
        for group in self.groups:
            self.norm += nn.utils.clip_grad_norm_(group, self.max_grad_norm)
        finite = torch.isfinite(self.losses.sum() + self.norm)
        self.stopped.copy_(torch.maximum(self.stopped, (~finite).float()))
        if self.fused or not self.stopped:
            # In its first step AdamW makes all its moments, and only then changes a weight.
            self.updating = not (self.fused and self.first)
            self.optimizer.step()
            self.updating = False
        self.optimizer.zero_grad()

    def undo(self) -> None:
        """Forget a step that was not finished. Raises UserError if weights may have changed."""
        if self.updating:
            raise UserError(
                "out of memory while the weights were changed; use adamw, or a device with more"
                " memory; the same command goes on from the last saved state"
            )
        if self.first:
            self.optimizer.state.clear()
        self.optimizer.zero_grad()
        self.losses.zero_()
        self.norm.zero_()


def _backward(
    batch: StepBatch,
    errors_of: Callable[[StepBatch], Tensor],
    weights: Tensor,
    losses: Tensor,
    at_once: int,
) -> None:
    """Accumulate the gradients of a step, `at_once` latents in a pass; fill in its losses (G,)."""
    size = weights.shape[1]
    for start in range(0, size, at_once):
        rows = slice(start, min(start + at_once, size))
        parts = weights[:, rows] @ errors_of(batch[rows])
        parts.sum().backward()
        losses += parts.detach()
