"""The complete state of a training between two steps; `generation/resume.py` writes it to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TrainingState = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors for a .safetensors file, and JSON values."""


def capture(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    norms: Tensor,
    at_once: int,
) -> TrainingState:
    """Return weights, optimizer moments, the losses and norms so far, and generator states.

    The learning rate is not stored, because it follows from the step.
    """
    tensors = {"losses": losses, "norms": norms, "random/cpu": torch.get_rng_state()}
    if losses.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(losses.device)
    facts: dict[str, Any] = {"at_once": at_once, "optimizer": {}}
    for number, weight in enumerate(parameters):
        tensors[f"weight/{number}"] = weight
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
            else:
                facts["optimizer"][f"{number}/{name}"] = value
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}, facts


def restore(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    norms: Tensor,
) -> int:
    """Restore what `capture` returned; return how many latents fit into memory at once."""
    moments: dict[int, dict[str, Any]] = {}
    kinds: dict[str, dict[str, Any]] = {"optimizer": dict(facts["optimizer"])}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        kinds.setdefault(kind, {})[rest] = tensor
    for name, value in kinds["optimizer"].items():
        number, _, moment = name.partition("/")
        if isinstance(value, Tensor) and value.shape == parameters[int(number)].shape:
            # In the weight's memory layout, which the fused optimizer step needs.
            value = torch.empty_like(parameters[int(number)], dtype=value.dtype).copy_(value)
        moments.setdefault(int(number), {})[moment] = value
    with torch.no_grad():
        for place, weight in enumerate(parameters):
            weight.copy_(kinds["weight"][str(place)])
        losses.copy_(kinds["losses"][""])
        norms.copy_(kinds["norms"][""])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    torch.set_rng_state(kinds["random"]["cpu"])
    if losses.device.type == "cuda" and "cuda" in kinds["random"]:
        torch.cuda.set_rng_state(kinds["random"]["cuda"], losses.device)
    return int(facts["at_once"])
