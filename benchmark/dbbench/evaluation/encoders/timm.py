"""timm encoders ("timm:NAME"): any timm model, images only; for DINO, DINOv2-I and PRES.

    timm:NAME                        weights from the hub, such as timm:vit_small_patch16_224.dino,
                                     timm:vit_small_patch14_dinov2.lvd142m
    timm:NAME@/path/x.safetensors    the same with weights from a file
    timm:NAME?crop_pct=0.875[@...]   another resize than the default of the weights:
                                     224 / 0.875 = 256; also interpolation=bicubic
    timm:local-dir:/path             a folder in timm's own format: config.json, model.safetensors

The feature is the pooled output before the classifier; for a ViT, the class token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch

from dbbench.errors import UserError, unknown
from dbbench.evaluation.encoder import UnitVectors, encoder_fingerprint
from dbbench.evaluation.encoders import _network

# What belongs to training and classification, which a feature does not need.
_CLASSIFIER = re.compile(r"(head|head_dist|fc|classifier|mask_token)(\.|$)")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")

library: Any = timm.data  # Type checkers cannot resolve its exported names.


def load(argument: str, *, device: str) -> TimmEncoder:
    """Return the encoder that "timm:ARGUMENT" names.

    Raises UserError for an unknown model, weights that do not fit, pickles, and a missing network.
    """
    name = f"timm:{argument}"
    if argument.startswith("local-dir:"):
        return load_folder(Path(argument.removeprefix("local-dir:")), name=name, device=device)
    model_name, _, file = argument.partition("@")
    model_name, _, options = model_name.partition("?")
    config = _pretrained_config(model_name)
    if file:
        path = _network.local_weights(file, encoder=name)
    elif config.hf_hub_id:
        path = _network.hub_weights(config.hf_hub_id, ["model.safetensors"], encoder=name)
    else:
        raise UserError(f"{name}: timm has no weights for it; give a file: {name}@/path")
    overlay = {"file": str(path), "hf_hub_id": None, "url": "", "custom_load": False}
    overlay |= _preprocessing_options(options, name=name)
    return TimmEncoder(
        _create(model_name, name=name, source=path, pretrained_cfg_overlay=overlay),
        name=name,
        device=device,
    )


def load_folder(folder: Path, *, name: str, device: str) -> TimmEncoder:
    """Return the encoder in a folder that timm wrote (`timm.models.save_for_hf`)."""
    folder = folder.expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"{name}: {folder} has no config.json; it is not a folder written by timm")
    if not (folder / "model.safetensors").is_file():
        pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pth")])
        _network.local_weights((pickles or [folder / "model.safetensors"])[0], encoder=name)
    model = _create(f"local-dir:{folder}", name=name, source=folder / "model.safetensors")
    return TimmEncoder(model, name=name, device=device)


class TimmEncoder(_network.PillowNetwork):
    """A timm model without its classifier, with the preprocessing published for its weights."""

    def __init__(self, model: torch.nn.Module, *, name: str, device: str) -> None:
        self._data: dict[str, Any] = library.resolve_model_data_config(model)
        transform = library.create_transform(**self._data, is_training=False)
        super().__init__(model, transform, name=name, device=device)
        self.dim = int(getattr(self._model, "head_hidden_size", self._model.num_features))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, timm's version, preprocessing and dtype."""
        chosen = self._data
        return encoder_fingerprint(
            weights=_network.hash_weights(self._model),
            library=f"timm {timm.__version__}",
            preprocessing={
                "input_size": list(chosen["input_size"]),
                "resizer": _network.RESIZER,
                "filter": chosen["interpolation"],
                "crop": chosen["crop_mode"],
                "crop_pct": chosen["crop_pct"],
                "mean": list(chosen["mean"]),
                "std": list(chosen["std"]),
                "pool": str(getattr(self._model, "global_pool", "")),
            },
            dtype="float32",
        )

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Raise UserError: timm models encode images only."""
        raise UserError(
            f"{self.name} cannot encode texts; use an open_clip encoder for this role "
            "(dbbench list encoders)"
        )


def _pretrained_config(model_name: str) -> Any:
    """Return timm's config of the weights. Raises UserError for an unknown model or weights tag."""
    architecture = model_name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown("timm model", architecture, timm.list_models(), "") from None
    tagged = timm.list_pretrained(f"{architecture}.*")
    if "." in model_name and model_name not in tagged:
        raise unknown("timm weights", model_name, tagged, "")
    return timm.get_pretrained_cfg(model_name)


def _preprocessing_options(text: str, *, name: str) -> dict[str, Any]:
    """Parse "crop_pct=0.875,interpolation=bicubic". Raises UserError for any other option."""
    chosen: dict[str, Any] = {}
    for option in filter(None, text.split(",")):
        key, _, value = option.partition("=")
        if key == "interpolation" and value in INTERPOLATIONS:
            chosen[key] = value
        elif key == "crop_pct" and re.fullmatch(r"0?\.\d+|1(\.0+)?", value) and float(value) > 0:
            chosen[key] = float(value)
        else:
            raise UserError(
                f'{name}: cannot read "{option}"; write crop_pct=0.875 (0 to 1) or interpolation='
                f"{'|'.join(INTERPOLATIONS)}"
            )
    return chosen


def _create(model_name: str, *, name: str, source: Path, **keywords: Any) -> torch.nn.Module:
    """Create the model with its weights. Raises UserError if a tensor is missing or misfits."""
    _network.check_readable(source, encoder=name)
    with _network.collect_log("timm.models._builder") as log:
        try:
            model: torch.nn.Module = timm.create_model(
                model_name, pretrained=True, num_classes=0, **keywords
            )
        except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error) else type(error).__name__
            raise UserError(f"{name}: the weights in {source} do not fit: {reason}") from None
    # Without a classifier, timm only logs a missing tensor and leaves it random.
    missing = next((line for line in log if line.startswith("Missing keys")), None)
    if missing is not None:
        raise UserError(f"{name}: the weights in {source} do not fit: {missing[:160]}")
    extra = [key for line in log for key in _unexpected(line) if not _CLASSIFIER.match(key)]
    if extra:
        raise UserError(
            f"{name}: the weights in {source} do not fit: the network has no {extra[0]}"
            f" ({len(extra)} tensors); use the model that they were trained with"
        )
    _network.check_not_bent(source, model, encoder=name)
    return model


def _unexpected(line: str) -> list[str]:
    """Return the tensors that timm did not use, from a line of its log."""
    match = re.match(r"Unexpected keys \((.*)\) found", line)
    return [] if match is None else match[1].split(", ")
