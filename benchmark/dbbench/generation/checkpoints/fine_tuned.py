"""A folder of a fine-tuned pipeline, given instead of a training: its parts, whole or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dbbench.errors import UserError
from dbbench.generation.noise import build_schedule
from dbbench.generation.pipelines.components import (
    DIFFUSERS_STEM,
    FAULTS,
    TRANSFORMERS_STEM,
    load_part,
)
from dbbench.generation.pipelines.given import part_files, read, read_part, variant_of

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

# What a part's config says of its origin and of its training, and not of its images.
_NOTES = {
    "_name_or_path", "_class_name", "_diffusers_version", "_attn_implementation_autoset",
    "architectures", "attention_dropout", "bos_token_id", "decay", "dropout", "dtype",
    "eos_token_id", "gradient_checkpointing", "initializer_factor", "initializer_range",
    "inv_gamma", "min_decay", "model_type", "optimization_step", "pad_token_id", "power",
    "projection_dim", "sample_size", "torch_dtype", "transformers_version", "update_after_step",
    "use_cache", "use_ema_warmup", "vocab_size",
}  # fmt: skip


def read_fine_tuned(folder: Path, backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    """Return the trainable parts of a pipeline's folder, by the backbone's file names.

    Raises UserError if a tensor does not fit, or if what else is in the folder (configs, noise
    schedule, autoencoder) is not the backbone's, as the images are drawn with the backbone's.
    """
    files = {}
    for part in backbone.parts:
        stem = DIFFUSERS_STEM if part == backbone.denoiser else TRANSFORMERS_STEM
        found = part_files(folder / part, stem=stem) if (folder / part).is_dir() else []
        if found:
            _check_config(folder / part / "config.json", backbone.config(part), part)
            try:
                backbone.load(part, read_part(found))
                files[backbone.file(part)] = backbone.weights(part)
            finally:
                backbone.restore()
    if backbone.file(backbone.denoiser) not in files:
        raise UserError(
            f"{folder} has no {backbone.denoiser}/*.safetensors; give the folder of a fine-tuned"
            " pipeline"
        )
    _check_scheduler(folder / "scheduler" / "scheduler_config.json", backbone)
    _check_autoencoder(folder / "vae", backbone)
    return files


def _check_config(file: Path, own: dict[str, Any], part: str) -> None:
    """Refuse a config that differs from the backbone's in anything that both have."""
    if not file.is_file():
        return
    given = _json(file)
    for key in sorted(given.keys() & own.keys() - _NOTES):
        if given[key] != own[key] and (given[key] or own[key]):
            raise UserError(
                f"the checkpoint's {part} does not fit this backbone ({file} has {key}"
                f" {json.dumps(given[key])}, the backbone {json.dumps(own[key])}); use the backbone"
                " that it was trained on"
            )


def _check_scheduler(file: Path, backbone: Backbone) -> None:
    """Refuse another noise schedule or prediction type than the backbone's."""
    if not file.is_file():
        return
    given, own = _json(file), dict(backbone.pipeline.scheduler.config)
    remedy = "use a backbone with that scheduler, or the one that it was trained on"
    for key, default in (
        ("prediction_type", "epsilon"),
        ("rescale_betas_zero_snr", False),
        ("shift", 1.0),
        ("num_train_timesteps", 1000),
    ):
        theirs, ours = given.get(key, default), own.get(key, default)
        if theirs != ours:
            raise UserError(f"{file} has {key} {theirs}, and the backbone has {ours}; {remedy}")
    spacing = given.get("timestep_spacing"), own.get("timestep_spacing")
    if None not in spacing and spacing[0] != spacing[1]:
        raise UserError(
            f"{file} has timestep_spacing {spacing[0]}, and the backbone has {spacing[1]}; {remedy}"
        )
    levels = [_noise_levels(config) for config in (given, own)]
    if levels[0].shape != levels[1].shape or not torch.allclose(levels[0], levels[1]):
        raise UserError(f"{file} has another noise schedule (betas) than the backbone; {remedy}")


def _noise_levels(config: dict[str, Any]) -> Tensor:
    """Return how much noise a latent of zeros gets at every timestep."""
    schedule: Any = build_schedule(config, torch.device("cpu"))
    steps = torch.arange(schedule.timesteps)
    ones = torch.ones(schedule.timesteps, 1, 1, 1)
    return torch.as_tensor(schedule.add_noise(torch.zeros_like(ones), ones, steps)).flatten()


def _check_autoencoder(folder: Path, backbone: Backbone) -> None:
    """Refuse another autoencoder than the backbone's; half precision of the same is the same."""
    files = part_files(folder, stem=DIFFUSERS_STEM) if folder.is_dir() else []
    if not files:
        return
    own = backbone.module("vae")
    entry = [type(own).__module__, type(own).__name__]
    try:
        given = load_part(folder.parent, "vae", entry, variant=variant_of(files)).state_dict()
    except FAULTS as error:
        raise UserError(f"cannot load {folder}: {str(error)[:200]}; copy it anew") from error
    precision = next(iter(read(files[0]).tensors.values())).dtype
    for name, tensor in own.state_dict().items():
        rounded = tensor.to("cpu", precision).float()
        if name not in given or not torch.equal(rounded, given[name]):
            raise UserError(
                f"{folder} is another autoencoder than the backbone's ({name} differs); give the"
                " whole folder as backbone.path, or remove its vae folder to draw with the"
                " backbone's"
            )


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    return document if isinstance(document, dict) else {}
