"""A network's weights as they were loaded, and how they are held: in float32, or rounded.

Used by `networks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers of which autocast reads the weights in bfloat16 in any case."""


class Originals:
    """A network's weights on the CPU, float32, and a checksum of each as it lies on the device.

    For a device of its own the weights are compared there, so that only what has changed crosses
    over; on the CPU they are compared bit by bit.
    """

    def __init__(self, module: nn.Module) -> None:
        self.state: dict[str, Tensor] = {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in module.state_dict().items()
        }
        self._sums: dict[str, Tensor] = {}

    def mark(self, module: nn.Module) -> None:
        """Note how the original weights lie on the device now."""
        self._sums = {name: checksum(tensor) for name, tensor in module.state_dict().items()}

    def restore(self, module: nn.Module) -> int:
        """Copy back what has changed; return how many tensors. The names must be the original."""
        state = module.state_dict()
        changed = [name for name, tensor in state.items() if not self._is_there(name, tensor)]
        with torch.no_grad():
            for name in changed:
                state[name].copy_(self.state[name])
        return len(changed)

    def _is_there(self, name: str, tensor: Tensor) -> bool:
        original = self.state[name]
        if tensor.device.type == "cpu":
            # Bits, so that a NaN that was there before is the same NaN.
            return torch.equal(_bits(tensor), _bits(original.to(tensor.dtype)))
        return torch.equal(checksum(tensor), self._sums[name])

    def digest(self, digest: Any, part: str) -> None:
        """Feed names, shapes and weights to a hash, tensor by tensor without a copy."""
        for name, tensor in sorted(self.state.items()):
            # transformers 5 dropped this prefix from the names of the same weights.
            digest.update(f"{part}/{name.removeprefix('text_model.')}{tensor.shape}".encode())
            digest.update(tensor.reshape(-1).numpy().data)


def checksum(tensor: Tensor) -> Tensor:
    """Return two sums over a tensor's bits, int64 (2,); they depend on where each value stands."""
    if not tensor.numel():
        return torch.zeros(2, dtype=torch.int64, device=tensor.device)
    bits = _bits(tensor).reshape(len(tensor) if tensor.ndim else 1, -1)
    sums = [bits.sum(dim=dim, dtype=torch.int64) for dim in (1, 0)]
    weighed = [s * torch.arange(1, len(s) + 1, device=s.device) for s in sums]
    return torch.stack([each.sum() for each in weighed])


def hold(module: nn.Module) -> None:
    """Hold the frozen weights of linear layers and convolutions in bfloat16.

    Autocast rounds them to it in each pass, so that all results stay the same bits; norms and
    embeddings, which are read in float32, stay as they are.
    """
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, LAYERS) and isinstance(weight, Tensor) and not weight.requires_grad:
            layer.to(torch.bfloat16)


def release(module: nn.Module, original: Originals) -> None:
    """Hold all weights in float32 again, with their original values."""
    if any(weight.dtype == torch.bfloat16 for weight in module.parameters()):
        module.float()
        module.load_state_dict(original.state)


@contextmanager
def as_float32(module: nn.Module) -> Iterator[None]:
    """Inside this context, weights that are held in bfloat16 look as float32, and take no memory.

    peft creates adapters in the type of the weights, and those are to be trained in float32.
    """
    rounded = [
        (layer, name, weight)
        for layer in module.modules()
        for name, weight in layer.named_parameters(recurse=False)
        if weight.dtype == torch.bfloat16
    ]
    for layer, name, weight in rounded:
        stand_in = torch.zeros((), device=weight.device).expand(weight.shape)
        setattr(layer, name, nn.Parameter(stand_in, requires_grad=False))
    try:
        yield
    finally:
        for layer, name, weight in rounded:
            setattr(layer, name, weight)


def _bits(tensor: Tensor) -> Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().view(kinds[tensor.element_size()])
