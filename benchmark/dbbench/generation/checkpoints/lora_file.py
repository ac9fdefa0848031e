"""LoRA files of every common tool, each tensor placed in its layer; `lora.load` uses the result.

Read are the names of diffusers (also its old attention processors), peft, kohya and ComfyUI, with
the backbone's own layer names or those of the original Stable Diffusion code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dbbench.errors import UserError
from dbbench.generation.pipelines.given import Weights, check_claims, read

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_KEY = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<half>[AB])(?:\.[\w-]+)?\.weight"
    r"|[._]lora(?:_linear_layer)?[._](?P<side>down|up)\.weight|\.(?P<alpha>alpha))"
)
# How a key's start names the part; the first that matches counts. "": the denoiser.
_STARTS = (
    ("text_encoder_3.", "text_encoder_3"), ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"), ("unet.", "unet"), ("transformer.", "transformer"),
    ("lora_te3_", "text_encoder_3"), ("lora_te2_", "text_encoder_2"),
    ("lora_te1_", "text_encoder"), ("lora_te_", "text_encoder"), ("lora_unet_", ""),
    ("lora_transformer_", "transformer"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("model.diffusion_model.", ""), ("diffusion_model.", ""),
)  # fmt: skip
# Settings of peft that change what an adapter does; all others are notes of its training.
_REFUSED = ("use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "megatron_config")


@dataclass
class _Adapter:
    """One layer's adapter: down (r, in), up (out, r), and alpha, where the file gives it."""

    key: str
    tensors: dict[str, Tensor] = field(default_factory=dict)


def read_lora(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """Return the adapters of a file or folder, named as `place` does, with scale 1.

    Raises UserError if a tensor has no place, and for what the file says and is not honoured.
    """
    file = _find(path)
    weights = read(file)
    check_claims(
        weights,
        backbone.pipeline.scheduler.config,
        clip_skip=len(backbone.text_encoders) == 1,
    )
    return place(weights.tensors, backbone, settings=_settings(weights, backbone))


def place(
    tensors: Mapping[str, Tensor],
    backbone: Backbone,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Tensor]:
    """Return adapters as {part}.{layer}.lora_A.weight and lora_B.weight, with scale 1.

    `settings` are those of peft for each part. A scale (alpha / rank) is multiplied into lora_B.
    Raises UserError that names the first tensor without a place, and how many there are.
    """
    index = {part: _layers(backbone.module(part), part) for part in backbone.parts}
    found: dict[tuple[str, str], _Adapter] = {}
    problems = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        where = None if match is None else _locate(match["layer"], index, backbone.denoiser)
        if match is None or where is None:
            problems.append(f"{key} {_why(key)}")
            continue
        name = "alpha" if match["alpha"] else _role(match)
        adapter = found.setdefault(where, _Adapter(key))
        if name in adapter.tensors:
            problems.append(f"{key} is there twice")
        adapter.tensors[name] = tensor
    placed: dict[str, Tensor] = {}
    for (part, layer), adapter in found.items():
        module = backbone.module(part).get_submodule(layer)
        try:
            down, up = _shaped(adapter, module)
        except ValueError as error:
            problems.append(str(error))
            continue
        scale = _scale(adapter, down.shape[0], layer, (settings or {}).get(part))
        placed[f"{part}.{layer}.lora_A.weight"] = down.contiguous()
        placed[f"{part}.{layer}.lora_B.weight"] = (
            up.contiguous() if scale == 1 else up.float() * scale
        )
    if problems or not placed:
        raise UserError(
            f"the LoRA does not fit this backbone: {problems[0] if problems else 'it is empty'}"
            f" ({len(problems)} of {len(tensors)} tensors); use the backbone that it was trained"
            " on, and a plain LoRA"
        )
    return placed


def _find(path: Path) -> Path:
    """Return the LoRA file that a path names: itself, or the one in its folder."""
    if not path.is_dir():
        return path
    usual = [path / name for name in _NAMES if (path / name).is_file()]
    files = usual or sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "no .safetensors file"
        raise UserError(f"{path} holds {names}; give the path of the LoRA file itself")
    return files[0]


def _role(match: re.Match[str]) -> str:
    return "down" if match["half"] == "A" or match["side"] == "down" else "up"


def _why(key: str) -> str:
    """Return what is known of a tensor that has no place."""
    for mark, kind in (
        ("hada_", "LoHa"), ("lokr_", "LoKr"), ("dora_scale", "DoRA"), ("magnitude", "DoRA"),
        ("lora_mid", "LoCon with a middle tensor"), (".diff", "full differences"),
        ("oft_", "OFT"), ("glora", "GLoRA"),
    ):  # fmt: skip
        if mark in key:
            return f"is {kind}, which is not read"
    return "has no place"


def _layers(module: nn.Module, part: str) -> dict[str, str]:
    """Return the linear and convolution layers by every name that tools know, dots as "_"."""
    names: dict[str, str] = {}
    depth = getattr(getattr(module, "config", None), "layers_per_block", None)
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        names[name.replace(".", "_")] = name
        if part.startswith("text_encoder"):
            names.setdefault(f"text_model_{name.replace('.', '_')}", name)
            names.setdefault(name.removeprefix("text_model.").replace(".", "_"), name)
        elif part == "unet" and isinstance(depth, int):
            names.setdefault(original_name(name, module, depth).replace(".", "_"), name)
    return names


def _locate(
    layer: str, index: Mapping[str, Mapping[str, str]], denoiser: str
) -> tuple[str, str] | None:
    """Return part and layer that a key names, None if there is none or it is not clear."""
    layer = layer.removeprefix("base_model.model.")
    for start, part in _STARTS:
        if layer.startswith(start):
            parts, layer = [part or denoiser], layer.removeprefix(start)
            break
    else:
        parts = list(index)
    # Attention processors hold the layers' adapters: attn1.processor.to_out for attn1.to_out.0.
    flat = layer.removeprefix("base_model.model.").replace(".", "_").replace("_processor_", "_")
    for part in parts:
        names = index.get(part, {})
        for name in (flat, f"{flat}_0"):
            if name in names and (name == flat or flat.endswith("to_out")):
                return part, names[name]
    return None


def _shaped(adapter: _Adapter, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return both halves in the layer's shape. Raises ValueError that names a misfit."""
    if missing := {"down", "up"} - adapter.tensors.keys():
        raise ValueError(f"the {missing.pop()} half of {adapter.key} is missing")
    down, up = adapter.tensors["down"], adapter.tensors["up"]
    rank = down.shape[0]
    weight: Any = module.weight
    wanted = {
        "down": (rank, *weight.shape[1:]),
        "up": (weight.shape[0], rank, *([1] * (weight.ndim - 2))),
    }
    for name, tensor in (("down", down), ("up", up)):
        shape = wanted[name]
        # A layer of 1x1 is linear in some tools and a convolution in others.
        if tensor.shape[:2] != shape[:2] or tensor.numel() != math.prod(shape):
            raise ValueError(
                f"the {name} half of {adapter.key} is {tuple(tensor.shape)} instead of {shape}"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"the {name} half of {adapter.key} is {tensor.dtype}")
    return down.reshape(wanted["down"]), up.reshape(wanted["up"])


def _scale(adapter: _Adapter, rank: int, layer: str, settings: Mapping[str, Any] | None) -> float:
    """Return an adapter's factor: alpha / rank (arXiv 2106.09685, section 4.1), 1 without alpha."""
    if "alpha" in adapter.tensors:
        return float(adapter.tensors["alpha"]) / rank
    if settings is None or settings.get("lora_alpha") is None:
        return 1.0
    patterns: Mapping[str, Any] = settings.get("alpha_pattern") or {}
    alphas = [value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?{key}", layer)]
    alpha = float(alphas[0] if alphas else settings["lora_alpha"])
    # rsLoRA (arXiv 2312.03732) divides by the square root.
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _settings(weights: Weights, backbone: Backbone) -> dict[str, dict[str, Any]]:
    """Return peft's settings of each part: from the metadata, or from adapter_config.json.

    Raises UserError if peft's own file comes without them, because its scale is then unknown.
    """
    settings: dict[str, dict[str, Any]] = {}
    beside = weights.path.parent / "adapter_config.json"
    peft = any(key.startswith("base_model.") for key in weights.tensors)
    try:
        if "lora_adapter_metadata" in weights.metadata:
            for key, value in json.loads(weights.metadata["lora_adapter_metadata"]).items():
                part, _, name = key.partition(".")
                settings.setdefault(part, {})[name] = value
        elif beside.is_file() and peft:
            settings = dict.fromkeys(backbone.parts, json.loads(beside.read_text("utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read the settings of {weights.path}: {error}") from None
    if peft and not settings:
        raise UserError(
            f"{weights.path} is peft's and its scale is in adapter_config.json, which is missing"
            " beside it; copy that file too"
        )
    for part in settings.values():
        if bad := [key for key in _REFUSED if part.get(key)]:
            raise UserError(f"{weights.path} was trained with {bad[0]}, which is not read")
        if part.get("bias", "none") != "none":
            raise UserError(f"{weights.path} also trains biases, which are not read")
    return settings


def original_name(name: str, unet: nn.Module, depth: int) -> str:
    """Return the name that a UNet's layer has in the original Stable Diffusion code.

    `depth` is the number of layers in each block.
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_RESNET.get(match[3], match[3])}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if match is None:
        return name
    side, block, kind, layer, rest = match.groups()
    first = int(block) * (depth + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + depth + 1}.0.op"
    if kind == "upsamplers":  # after the attention, if the block has any
        up: Any = unet.get_submodule(f"up_blocks.{block}")
        return f"output_blocks.{first + depth}.{2 if hasattr(up, 'attentions') else 1}.{rest}"
    stack = f"input_blocks.{first + 1 + int(layer)}"
    if side == "up":
        stack = f"output_blocks.{first + int(layer)}"
    return f"{stack}.{1 if kind == 'attentions' else 0}.{_RESNET.get(rest, rest)}"


_OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
