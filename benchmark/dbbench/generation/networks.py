"""The networks of a backbone on their device: held, changed by runs, and put back as they were."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dbbench.errors import UserError
from dbbench.generation.memory import empty_cache, is_out_of_memory
from dbbench.generation.originals import Originals, hold, release
from dbbench.generation.pipelines.given import misfit

log = logging.getLogger(__name__)


class Networks:
    """Networks by part, with their original weights, which stay on the CPU."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        device: str,
        images: Sequence[str],
        half: bool,
        frozen_half: bool,
    ) -> None:
        """Move them to the device, frozen; those of `images` in the layout of convolutions.

        `half` says whether passes calculate in bfloat16. Then, with `frozen_half` or where float32
        does not fit, weights are held in it until they are trained or loaded. Raises UserError if
        the device's memory is too small.
        """
        self._modules, self._images = modules, images
        self._device = torch.device(device)
        self.held_half = half and frozen_half
        for module in modules.values():
            module.float().requires_grad_(False).eval()
        self._originals = {part: Originals(module) for part, module in modules.items()}
        if self._moved():
            return
        if half and not self.held_half:
            self.held_half = True
            log.warning("out of memory: frozen weights are held in bfloat16; no result changes")
            if self._moved():
                return
        size = sum(w.numel() * w.element_size() for m in modules.values() for w in m.parameters())
        raise UserError(
            f"the backbone's networks ({size / 2**30:.1f} GiB) do not fit into the memory of"
            f" {device}; use a smaller backbone, a device with more memory, fewer"
            " --jobs-per-device, or --device cpu"
        )

    def digest(self) -> Any:
        """Return a SHA-256 that has read the original weights of all parts, in their order."""
        digest = hashlib.sha256()
        for part, original in self._originals.items():
            original.digest(digest, part)
        return digest

    def weights(self, part: str) -> dict[str, Tensor]:
        """Return a copy of a part's weights on the CPU; the original ones where it is frozen."""
        if self.held_half and any(w.dtype == torch.bfloat16 for w in self._parameters(part)):
            return {name: tensor.clone() for name, tensor in self._originals[part].state.items()}
        return Originals(self._modules[part]).state

    def restore(self) -> None:
        """Put back what has changed, bit for bit, and freeze everything."""
        self.gather()
        for part, module in self._modules.items():
            original = self._originals[part]
            if module.state_dict().keys() != original.state.keys():
                self.load(part, original.state)  # raises
            _freeze(module)
            if self.held_half:
                hold(module)
            original.restore(module)

    def gather(self) -> None:
        """Bring those back to the device that a training has moved to the CPU."""
        for module in self._modules.values():
            module.to(self._device)

    def load(self, part: str, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into a part, and freeze it. Raises UserError if it does not fit."""
        self.hold_whole(part)
        module = self._modules[part]
        named = _as_named_here(state, module)
        if problem := misfit(named, module.state_dict()):
            raise UserError(
                f"the checkpoint's {part} does not fit this backbone ({problem}); use the backbone"
                " that it was trained on"
            )
        module.load_state_dict(named)
        _freeze(module)

    def hold_whole(self, part: str) -> None:
        """Hold a part in float32, with its original weights, so that it can be trained."""
        release(self._modules[part], self._originals[part])

    def _moved(self) -> bool:
        """Move all to the device; return whether they fit."""
        try:
            for part, module in self._modules.items():
                if self.held_half:
                    hold(module)
                module.to(self._device)
                if part in self._images:
                    module.to(memory_format=torch.channels_last)
                self._originals[part].mark(module)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        for module in self._modules.values():
            module.to("cpu")
        empty_cache()
        return False

    def _parameters(self, part: str) -> Sequence[Tensor]:
        return list(self._modules[part].parameters())


def remove_adapters(pipeline: Any) -> None:
    """Remove all adapters, so that modules and names are as they were loaded."""
    if "peft" not in sys.modules:
        return
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component in pipeline.components.values():
        if not isinstance(component, nn.Module):
            continue
        # Adapters that failed to load leave layers behind, but no `peft_config`.
        if any(isinstance(layer, BaseTunerLayer) for layer in component.modules()):
            recurse_remove_peft_layers(component)
        model: Any = component
        if hasattr(model, "peft_config"):
            del model.peft_config
            model._hf_peft_config_loaded = False


def _freeze(module: nn.Module) -> None:
    module.requires_grad_(False)
    module.zero_grad()  # a failed run's gradients must not enter the next run


def _as_named_here(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Rename a text encoder's weights to the names of the installed transformers version."""
    known = module.state_dict().keys()
    if known == state.keys():
        return state
    named = {}
    for name, tensor in state.items():
        short = name.removeprefix("text_model.")
        new = next((n for n in (name, short, f"text_model.{short}") if n in known), name)
        if not name.endswith("embeddings.position_ids"):  # older versions kept this constant
            named[new] = tensor
    return named
