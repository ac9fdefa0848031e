"""IP-Adapter files (arXiv 2308.06721), each tensor accounted for; the zero-shot baseline uses them.

Two kinds are read: the plain adapter, which projects an image's pooled embedding, and "Plus", whose
resampler takes the encoder's last but one hidden states. Face adapters are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import hf_hub_download
from torch import Tensor

from dbbench import hub
from dbbench.errors import UserError
from dbbench.generation.pipelines.given import PICKLED, Weights, check_file, note_metadata, read
from dbbench.generation.pipelines.loading import quiet

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

_HALVES = ("image_proj", "ip_adapter")
# The tensor that only this kind's projection has, and what the kind is called.
_KINDS = {
    "proj.3.weight": "a Full Face adapter",
    "perceiver_resampler.proj_in.weight": "a FaceID Plus adapter",
    "proj.2.weight": "a FaceID adapter",
}


def adapter_file(source: str, subfolder: str, name: str) -> Path:
    """Return the local path of an adapter's weights; `source` is a folder or a hub id.

    Raises UserError if it is missing, pickled, or the hub does not give it.
    """
    if Path(name).suffix in PICKLED:
        check_file(Path(name))
    local = Path(source).expanduser()
    if local.is_dir():
        file = local / subfolder / name
        if not file.is_file():
            raise UserError(f"no adapter {file}; correct adapter, subfolder and weight_name")
        return file
    try:
        return Path(hf_hub_download(source, name, subfolder=subfolder or None))
    except (OSError, ValueError) as error:
        raise UserError(f"no adapter {name}: {hub.explain(error, source)}") from error


def read_adapter(file: Path, backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    """Return the adapter as diffusers takes it: image_proj and ip_adapter.

    Raises UserError for a tensor that has no place in this backbone, and for kinds not read.
    """
    weights = read(file)
    note_metadata(weights)
    return _placed(weights, backbone)


def load_adapter(file: Path, backbone: Backbone) -> None:
    """Put an adapter into the backbone's denoiser. Raises UserError unless all of it fits."""
    state = _placed(read(file), backbone)
    try:
        with quiet():
            backbone.pipeline.load_ip_adapter(
                {half: dict(tensors) for half, tensors in state.items()},
                subfolder="",
                weight_name="",
                image_encoder_folder=None,
            )
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(_misfit(file, " ".join(str(error).split())[:200], 1)) from error
    denoiser: Any = backbone.module(backbone.denoiser)
    projection = denoiser.encoder_hid_proj.image_projection_layers[0]
    placed = sum(tensor.numel() for tensor in projection.state_dict().values())
    given = sum(tensor.numel() for tensor in state["image_proj"].values())
    lost = any(tensor.is_meta for tensor in projection.state_dict().values())
    if lost or placed != given:
        raise UserError(
            _misfit(file, f"image_proj has {given} numbers and {placed} have a place", 1)
        )


def is_plus(state: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Whether the adapter takes the image encoder's hidden states, not its pooled embedding."""
    return "latents" in state["image_proj"]


def image_width(state: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Return the width of the image embedding or hidden states that the adapter takes."""
    name = "proj_in.weight" if is_plus(state) else "proj.weight"
    try:
        return int(state["image_proj"][name].shape[-1])
    except KeyError:
        raise UserError(
            f"the adapter has no image_proj.{name}; use a plain or a Plus adapter"
        ) from None


def _placed(weights: Weights, backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    file = weights.path
    state: dict[str, dict[str, Tensor]] = {half: {} for half in _HALVES}
    problems = []
    for key, tensor in weights.tensors.items():
        half, _, name = key.partition(".")
        if half in state:
            state[half][name] = tensor
        else:
            problems.append(f"{key} has no place")
    for mark, kind in _KINDS.items():
        if mark in state["image_proj"]:
            raise UserError(f"{file} is {kind}, which is not read; use a plain or a Plus adapter")
    expected = _attention_shapes(backbone)
    for name, tensor in state["ip_adapter"].items():
        if name not in expected:
            problems.append(f"ip_adapter.{name} has no place")
        elif tuple(tensor.shape) != expected[name]:
            shape = tuple(tensor.shape)
            problems.append(f"ip_adapter.{name} is {shape} instead of {expected[name]}")
    problems += [f"ip_adapter.{n} is missing" for n in expected if n not in state["ip_adapter"]]
    if problems:
        raise UserError(_misfit(file, problems[0], len(problems)))
    return state


def _attention_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor that the cross-attention layers take."""
    denoiser: Any = backbone.module(backbone.denoiser)
    shapes = {}
    layers = [name for name in denoiser.attn_processors if "attn2" in name]
    for number, name in enumerate(layers):
        layer: Any = denoiser.get_submodule(name.removesuffix(".processor"))
        for half in ("k", "v"):
            shape = tuple(getattr(layer, f"to_{half}").weight.shape)
            shapes[f"{2 * number + 1}.to_{half}_ip.weight"] = shape
    return shapes


def _misfit(file: Path, problem: str, count: int) -> str:
    return (
        f"the adapter {file} cannot be loaded into this backbone ({problem}; {count} tensors); use"
        " one made for this backbone"
    )
