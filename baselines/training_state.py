"""The whole state of a training between two steps, as tensors and JSON: what `Saves` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[dict[str, Tensor], dict[str, Any]]


def capture(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    norms: Tensor,
    at_once: int,
) -> State:
    """Return weights, the optimizer's moments, what was noted of each step, and the generators.

    The learning rate follows from the number of the step.
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
    """Put everything back where `capture` found it; return how many latents fit at once."""
    moments: dict[int, dict[str, Any]] = {}
    kinds: dict[str, dict[str, Any]] = {"optimizer": dict(facts["optimizer"])}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        kinds.setdefault(kind, {})[rest] = tensor
    for name, value in kinds["optimizer"].items():
        number, _, moment = name.partition("/")
        if isinstance(value, Tensor) and value.shape == parameters[int(number)].shape:
            # In the weight's own layout: the fused step walks through both side by side.
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
