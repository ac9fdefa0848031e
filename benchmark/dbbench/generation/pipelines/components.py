"""The networks of a pipeline's folder or single file, loaded whole: each tensor has its place."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dbbench.errors import UserError
from dbbench.generation.pipelines.given import (
    Weights,
    check_finite,
    note_metadata,
    part_files,
    variant_of,
)

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"

# Whatever a library raises for files that it cannot use.
FAULTS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)

# Constants that files of older versions keep and current classes compute.
_CONSTANTS = re.compile(r"(^|\.)position_ids$")
# What a single file holds beside the networks that it is used for: the training's noise schedule,
# averaged copies of the weights, and parts of CLIP that no text encoding reads.
_BESIDE = re.compile(
    r"(model_ema\.|(sqrt_|log_|posterior_)?(one_minus_|recip_?m?1?_)?alphas_cumprod|betas$|logvar"
    r"|sqrt_|log_one_minus|posterior_|lvlb_weights|denoiser\.sigmas|model_ema|scale_factor"
    r"|global_step|v_pred$|ztsnr$)|.*(logit_scale|position_ids)$"
)


def load_part(folder: Path, name: str, entry: Any, *, variant: str | None) -> nn.Module:
    """Load the network `name` of a pipeline's folder; `entry` is its library and class.

    Raises UserError if its weights are missing, pickled, damaged, do not fit its config, or hold
    NaN or infinity.
    """
    library, kind = entry
    transformers = library == "transformers"
    place = folder / name
    stem = TRANSFORMERS_STEM if transformers else DIFFUSERS_STEM
    files = part_files(place, stem=stem, variant=variant)
    if not files:
        raise UserError(f"{place} holds no .safetensors weights; copy the whole folder")
    found = variant_of(files)
    for file in files:
        with safe_open(file, framework="pt") as stream:
            note_metadata(Weights(file, {}, stream.metadata() or {}))
    # diffusers looks up a component's class only among imported modules.
    loader = getattr(importlib.import_module(str(library)), str(kind))
    module, report = loader.from_pretrained(
        place,
        use_safetensors=True,
        variant=found,
        output_loading_info=True,
        local_files_only=True,
        **{"dtype" if transformers else "torch_dtype": torch.float32},  # a Backbone holds float32
    )
    problems = [
        *(f"{each} is missing" for each in sorted(report["missing_keys"])),
        *(f"{each} has no place" for each in _unplaced(report["unexpected_keys"])),
        *(f"{_first(each)} has another shape" for each in report["mismatched_keys"]),
    ]
    if problems:
        raise UserError(
            f"the weights in {place} do not fit its own config.json: {problems[0]}"
            f" ({len(problems)} tensors); copy the whole folder anew"
        )
    check_finite(module.state_dict().items(), str(place))
    return module  # type: ignore[no-any-return]


def account(file: Path, networks: Mapping[str, nn.Module]) -> None:
    """Raise UserError unless a single file's tensors are exactly those of `networks`.

    The library renames, splits, transposes and reshapes tensors, but does not change their values.
    So each tensor of a network has to be found in the file by its values, and each of the file's
    in a network.
    """
    have: dict[str, str] = {}
    for part, network in networks.items():
        for name, tensor in network.state_dict().items():
            if tensor.is_meta:
                raise UserError(
                    f"{file} has no weights for {part}.{name}; use a complete checkpoint"
                )
            have.setdefault(_digest(tensor), f"{part}.{name}")
    found: set[str] = set()
    unused = []
    with safe_open(file, framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118
            if _BESIDE.match(name):
                continue
            tensor = stream.get_tensor(name)
            ways = [list(map(_digest, way)) for way in _forms(tensor)]
            whole = [way for way in ways if have.keys() >= set(way)]
            found.update(digest for way in whole for digest in way)
            if not whole:
                unused.append(name)
    missing = [name for digest, name in have.items() if digest not in found]
    if missing:
        raise UserError(
            f"{file} has no weights for {missing[0]} ({len(missing)} tensors); use a complete"
            " checkpoint"
        )
    unused = [name for name in unused if not _is_last_clip_layer(name, networks)]
    if unused:
        raise UserError(
            f"{file} holds {unused[0]}, which has no place in this pipeline ({len(unused)}"
            " tensors); use a plain checkpoint, or the diffusers folder of its pipeline"
        )


def _forms(tensor: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield a tensor as it can be in a network: whole, transposed, in three, halves swapped."""
    yield (tensor,)
    if tensor.ndim == 2:
        yield (tensor.T,)
    if tensor.ndim and tensor.shape[0] % 3 == 0:
        yield tensor.chunk(3)
    if tensor.ndim and tensor.shape[0] % 2 == 0:
        yield (torch.cat(tensor.chunk(2)[::-1]),)


def _digest(tensor: Tensor) -> str:
    """Hash a tensor's values as float32, whatever its shape and name."""
    flat = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
    return hashlib.blake2b(flat.numpy().data, digest_size=16).hexdigest()


def _is_last_clip_layer(name: str, networks: Mapping[str, nn.Module]) -> bool:
    """Whether a tensor is of what Stable Diffusion 2 drops of CLIP: last layer and projection."""
    prefix = "cond_stage_model.model."
    if not name.startswith(prefix):
        return False
    if name == f"{prefix}text_projection":
        return True
    encoder: Any = networks["text_encoder"]
    match = re.match(r"transformer\.resblocks\.(\d+)\.", name.removeprefix(prefix))
    return match is not None and int(match[1]) >= int(encoder.config.num_hidden_layers)


def _unplaced(names: Any) -> list[str]:
    return sorted(name for name in names if not _CONSTANTS.search(name))


def _first(mismatch: Any) -> str:
    return str(mismatch[0] if isinstance(mismatch, tuple | list) else mismatch)
