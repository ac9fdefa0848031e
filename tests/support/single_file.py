"""A Stable Diffusion pipeline as one file, in the layout that its authors published it in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write(pipe: Any, file: Path) -> Path:
    """Write the weights of UNet, autoencoder and text encoder."""
    state: dict[str, Tensor] = {}
    depth = pipe.unet.config.layers_per_block + 1
    for name, tensor in pipe.unet.state_dict().items():
        state[f"model.diffusion_model.{_unet_name(name, depth)}"] = tensor
    blocks = len(pipe.vae.config.block_out_channels)
    for name, tensor in pipe.vae.state_dict().items():
        original = _autoencoder_name(name, blocks)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", original):
            tensor = tensor[:, :, None, None]  # its attention was made of convolutions
        state[f"first_stage_model.{original}"] = tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        short = name.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{short}"] = tensor
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, file)
    return file


def _unet_name(name: str, depth: int) -> str:
    for ours, theirs in OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        kind, number, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(rest, kind)}"
    match = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    assert match is not None, name
    side, block, kind, layer, rest = match.groups()
    first = int(block) * depth + (1 if side == "down" else 0)
    if kind == "downsamplers":
        return f"input_blocks.{first + depth - 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # after the attention, of which the tiny one's first block has none
        return f"output_blocks.{first + depth - 1}.1.{rest}"
    stack = "input_blocks" if side == "down" else "output_blocks"
    place = 1 if kind == "attentions" else 0
    return f"{stack}.{first + int(layer)}.{place}.{_inside(rest, kind)}"


def _inside(rest: str, kind: str) -> str:
    return _replace_first(rest, RESNET) if kind == "resnets" else rest


def _autoencoder_name(name: str, blocks: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.match(r"(.*)mid_block\.attentions\.0\.(.*)", name):
        return f"{match[1]}mid.attn_1.{_replace_first(match[2], ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    return re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name
    )


def _replace_first(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name
