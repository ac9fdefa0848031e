"""Weights that others made: files are read whole, and every tensor is placed or named.

Backbone, LoRA, inversions, adapters and fine-tuned folders all come through here.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dbbench.errors import UserError
from dbbench.hub import pointer

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CONVERT = "convert it once to safetensors: dbbench data convert OLD NEW"

# Metadata that changes nothing: the library's mark, and the notes of kohya's and other trainers.
_NOTES = re.compile(r"format$|ss_|sshs_|modelspec\.|lora_adapter_metadata$")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
_WIDE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, and what the file says of itself."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read(path: Path) -> Weights:
    """Read a .safetensors file.

    Raises UserError if it is pickled, a git-lfs pointer or damaged, or holds NaN or infinity.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error
    check_finite(tensors.items(), str(path))
    return Weights(path, tensors, metadata)


def check_file(path: Path) -> None:
    """Raise UserError for pickled weights, and for git-lfs's pointer instead of a file."""
    if path.suffix in PICKLED:
        raise UserError(f"{path} is pickled and could run any code; {CONVERT}")
    if (remedy := pointer(path)) is not None:
        raise UserError(remedy)


def check_finite(tensors: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Raise UserError that names the first tensor with NaN or infinity, and how many have."""
    bad = [name for name, tensor in tensors if not _is_finite(tensor)]
    if bad:
        raise UserError(
            f"{source}: {bad[0]} holds NaN or infinity ({len(bad)} such tensors); its training"
            " failed, or the file is damaged: use another one"
        )


def part_files(folder: Path, *, stem: str, variant: str | None = None) -> list[Path]:
    """Return the .safetensors files that hold one part: a file, or all shards of one.

    `stem` is the usual name without ending. Without `variant` (such as "fp16") the plain files are
    taken, or the only variant that there is. An empty list means that there are no weights.
    Raises UserError if a shard is missing, for several variants, and if all files are pickled.
    """
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
    if not files:
        for file in sorted(folder.glob("*")):
            check_file(file)
        return []
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for file in files:
        name = _SHARD.sub("", file.name.removesuffix(".safetensors"))
        base, _, kind = name.partition(".")
        groups[base, kind].append(file)
    usual = {kind: found for (base, kind), found in groups.items() if base == stem}
    usual = usual or {".".join(key).strip("."): found for key, found in groups.items()}
    chosen = _variant(usual, folder, variant)
    for file in chosen:
        check_file(file)
    return _whole(chosen, folder)


def variant_of(files: Iterable[Path]) -> str | None:
    """Return the variant of a part's files: "fp16" for model.fp16.safetensors."""
    name = next(iter(files)).name.removesuffix(".safetensors")
    return _SHARD.sub("", name).partition(".")[2] or None


def read_part(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors of a part's files together. Raises UserError as `read` does."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        weights = read(file)
        note_metadata(weights)
        tensors.update(weights.tensors)
    return tensors


def misfit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Return the first tensor that does not match by name, shape and kind; None if all do."""
    problems = list(_misfits(given, expected))
    if not problems:
        return None
    return f"{problems[0]}; {len(problems)} of {len(given.keys() | expected.keys())} tensors"


def note_metadata(weights: Weights) -> None:
    """Log one line with the metadata that nothing here understands."""
    unknown = sorted(key for key in weights.metadata if not _NOTES.match(key))
    if unknown:
        log.warning(
            '%s: its metadata says "%s", which is not understood and has no effect (%d such keys)',
            weights.path,
            unknown[0],
            len(unknown),
        )


def check_claims(weights: Weights, scheduler: Mapping[str, Any], *, clip_skip: bool) -> None:
    """Raise UserError if the metadata contradicts the backbone; log what is not understood.

    `scheduler` is the backbone's config. `clip_skip` is whether a backbone can be trained with an
    earlier layer of its text encoder, as Stable Diffusion 1 and 2 can.
    """
    data = weights.metadata
    prediction = scheduler.get("prediction_type", "epsilon")
    said = {"v": "v_prediction"}.get(
        data.get("modelspec.prediction_type", ""), data.get("modelspec.prediction_type")
    )
    if data.get("ss_v_parameterization") == "True":
        said = "v_prediction"
    for key, theirs, ours in (
        ("prediction type", said, prediction),
        (
            "zero terminal SNR",
            data.get("ss_zero_terminal_snr") == "True" or None,
            bool(scheduler.get("rescale_betas_zero_snr", False)),
        ),
        ("clip skip", _clip_skip(data) if clip_skip else None, None),
    ):
        if theirs is not None and theirs != ours:
            raise UserError(
                f"{weights.path} was trained with {key} {theirs}, by its metadata, and the backbone"
                f" has {ours}; use the backbone that it was trained on"
            )
    note_metadata(weights)


def _clip_skip(data: Mapping[str, str]) -> str | None:
    value = data.get("ss_clip_skip", "None")
    return None if value in {"None", "", "0", "1"} else value


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = tensor if tensor.dtype in _WIDE else tensor.float()
    return bool(torch.isfinite(wide).all())


def _variant(groups: Mapping[str, list[Path]], folder: Path, variant: str | None) -> list[Path]:
    if variant is not None and variant in groups:
        return groups[variant]
    if variant is None and "" in groups:
        return groups[""]
    if variant is None and len(groups) == 1:
        return next(iter(groups.values()))
    raise UserError(
        f"{folder} holds the variants {', '.join(sorted(filter(None, groups)))} and no"
        f' "{variant or "plain"}" weights; choose one (--set backbone.variant=NAME)'
    )


def _whole(files: list[Path], folder: Path) -> list[Path]:
    """Return the unsharded file if there is one, else all shards."""
    shards = {file: match for file in files if (match := _SHARD.search(file.name))}
    if plain := [file for file in files if file not in shards]:
        return plain[:1]
    count = int(next(iter(shards.values()))[2])
    there = {int(match[1]) for match in shards.values()}
    if missing := sorted(set(range(1, count + 1)) - there):
        raise UserError(
            f"{folder} holds {len(there)} of {count} shards, number {missing[0]} is missing; copy"
            " the whole folder"
        )
    return files


def _misfits(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for name in given:
        if name not in expected:
            yield f"{name} has no place"
    for name, tensor in expected.items():
        if name not in given:
            yield f"{name} is missing"
        elif given[name].shape != tensor.shape:
            yield f"{name} is {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        elif given[name].is_floating_point() != tensor.is_floating_point():
            yield f"{name} is {given[name].dtype} instead of {tensor.dtype}"
