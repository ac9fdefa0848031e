"""An IP-Adapter in its authors' layout, with random weights large enough to be seen."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dbbench.generation.backbone import Backbone

WIDTH, DEPTH = 64, 4


def write_adapter(folder: Path, backbone: Backbone, *, plus: bool = False) -> Path:
    """Write adapter and image encoder into `folder`; return the adapter's file."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2 if plus else 1,
        num_attention_heads=2, image_size=16, patch_size=8, projection_dim=20,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "models" / "image_encoder")
    state = _resampler() if plus else _projection()
    processors = [name for name in backbone.pipeline.unet.attn_processors if "attn2" in name]
    for number, name in enumerate(processors):
        layer = backbone.pipeline.unet.get_submodule(name.removesuffix(".processor"))
        for half in "kv":
            shape = layer.to_k.weight.shape
            state[f"ip_adapter.{2 * number + 1}.to_{half}_ip.weight"] = torch.randn(shape)
    file = folder / "models" / "ip-adapter_sd15.safetensors"
    save_file(state, file)
    return file


def _projection() -> dict[str, Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(4 * 32, 20),
        "image_proj.proj.bias": torch.randn(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }


def _resampler() -> dict[str, Tensor]:
    """The resampler of IP-Adapter Plus: 16 queries, four layers."""
    width = WIDTH
    state = {
        "latents": torch.randn(1, 16, width),
        "proj_in.weight": torch.randn(width, 32),
        "proj_in.bias": torch.zeros(width),
        "proj_out.weight": torch.randn(32, width),
        "proj_out.bias": torch.zeros(32),
        "norm_out.weight": torch.ones(32),
        "norm_out.bias": torch.zeros(32),
    }
    for number in range(DEPTH):
        start = f"layers.{number}."
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state[f"{start}{norm}.weight"] = torch.ones(width)
            state[f"{start}{norm}.bias"] = torch.zeros(width)
        state[f"{start}0.to_q.weight"] = torch.randn(width, width)
        state[f"{start}0.to_kv.weight"] = torch.randn(2 * width, width)
        state[f"{start}0.to_out.weight"] = torch.randn(width, width)
        state[f"{start}1.1.weight"] = torch.randn(4 * width, width)
        state[f"{start}1.3.weight"] = torch.randn(width, 4 * width)
    return {f"image_proj.{name}": tensor for name, tensor in state.items()}
