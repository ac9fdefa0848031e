"""LoRA: low-rank adapters in a backbone's layers (arXiv 2106.09685), in diffusers' format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dbbench.errors import UserError
from dbbench.generation.checkpoints.lora_file import place
from dbbench.generation.originals import as_float32
from dbbench.generation.pipelines.loading import quiet

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def add(backbone: Backbone, parts: Sequence[str], *, rank: int, seed: int) -> list[nn.Parameter]:
    """Add adapters of `rank` to the attention layers of these parts; return their weights.

    They start with no effect: A is Gaussian, B is zero. `Backbone.restore` removes them.
    """
    from peft import LoraConfig

    weights: list[nn.Parameter] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            targets = backbone.lora_targets if part == backbone.denoiser else TEXT_TARGETS
            config = LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
            )
            module: Any = backbone.module(part)
            with as_float32(module):
                module.add_adapter(config)
            weights += [weight for weight in module.parameters() if weight.requires_grad]
    return weights


def parts_of(backbone: Backbone, *, with_text: bool) -> tuple[str, ...]:
    """Return the parts that get adapters; T5 gets none, as in diffusers."""
    encoders = [part for part in backbone.text_encoders if part != "text_encoder_3"]
    return (backbone.denoiser, *(encoders if with_text else ()))


def weights(backbone: Backbone, parts: Sequence[str]) -> dict[str, Tensor]:
    """Return the adapters of these parts on the CPU, named for diffusers' `load_lora_weights`."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    named: dict[str, Tensor] = {}
    for part in parts:
        state = get_peft_model_state_dict(backbone.module(part), save_embedding_layers=False)
        # diffusers reads a transformer's adapters under peft's names, others under older names.
        if part != "transformer":
            state = convert_state_dict_to_diffusers(state)
        for name, tensor in state.items():
            named[f"{part}.{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
    return named


def load(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Load adapters of scale 1 into the backbone. Raises UserError unless all are in place."""
    placed = place(state, backbone)
    try:
        with quiet():
            backbone.pipeline.load_lora_weights(dict(placed))
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the LoRA does not fit this backbone ({reason[:200]}); use the one that it was"
            " trained on"
        ) from error
    there = {
        re.sub(r"(\.lora_[AB])\.[^.]+\.weight$", r"\1.weight", f"{part}.{name}")
        for part in backbone.parts
        for name, _ in backbone.module(part).named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    if lost := sorted(placed.keys() ^ there):
        raise UserError(
            f"the LoRA does not fit this backbone: {lost[0]} was not loaded ({len(lost)} tensors)"
        )
    for part in backbone.parts:
        backbone.module(part).requires_grad_(False)
