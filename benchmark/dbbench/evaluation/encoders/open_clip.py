"""open_clip encoders ("open_clip:ARCH:TAG"): any CLIP or SigLIP model; for CLIP-I and CLIP-T.

    open_clip:ARCH:TAG                      from the hub: open_clip:ViT-B-32:openai,
                                            open_clip:ViT-L-14:openai,
                                            open_clip:ViT-B-16-SigLIP2:webli
    open_clip:ARCH@/path/x.safetensors      weights from a file
    open_clip:ARCH:TAG@/path/x.safetensors  the same; the tag names their origin
    open_clip:local-dir:/path               a folder in open_clip's own format, with its tokenizer:
                                            open_clip_config.json, open_clip_model.safetensors,
                                            tokenizer.json, tokenizer_config.json

OpenAI's weights were trained with QuickGELU. With plain GELU they load without an error, and give
wrong features. Here they always get QuickGELU, whatever ARCH is. Without a TAG, a file that may be
OpenAI's is rejected; for any other file, the chosen activation is logged.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors import safe_open

from dbbench.errors import UserError, unknown
from dbbench.evaluation.encoder import UnitVectors, encoder_fingerprint
from dbbench.evaluation.encoders import _network

_log = logging.getLogger("dbbench")
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def load(argument: str, *, device: str) -> OpenClipEncoder:
    """Return the encoder that "open_clip:ARGUMENT" names.

    Raises UserError for an unknown architecture or tag, weights that do not fit, pickles, untagged
    weights that may be OpenAI's, and a missing network.
    """
    name = f"open_clip:{argument}"
    if argument.startswith("local-dir:"):
        return load_folder(Path(argument.removeprefix("local-dir:")), name=name, device=device)
    model_name, _, file = argument.partition("@")
    architecture, _, tag = model_name.partition(":")
    known = open_clip.list_models()
    if architecture not in known:
        raise unknown("open_clip architecture", architecture, known, "")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        choices = [f"{architecture}:{each}" for each in tags]
        raise unknown("open_clip weights tag", f"{architecture}:{tag}", choices, "")
    config = dict(open_clip.get_pretrained_cfg(architecture, tag)) if tag else {}
    if file:
        path = _network.local_weights(file, encoder=name)
    elif config.get("hf_hub"):
        repository, _, filename = str(config["hf_hub"]).rpartition("/")
        names = [filename] if filename.endswith(".safetensors") else HUB_FILES
        path = _network.hub_weights(repository, names, encoder=name)
    else:
        example = f"open_clip:{architecture}:{tag or (tags[0] if tags else 'TAG')}"
        raise UserError(
            f"{name}: its weights cannot be downloaded as safetensors; "
            f"use {example} or {name}@/path/weights.safetensors"
        )
    _network.check_readable(path, encoder=name)
    quick = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))
    if tag:
        quick = bool(config.get("quick_gelu", False))
    elif not quick and "openai" in tags and _is_half_precision(path):
        raise UserError(
            f"{name}: these weights have half precision, like OpenAI's, which need QuickGELU; "
            f"add their tag: open_clip:{architecture}:openai@{file}, or another tag of "
            f"{', '.join(t for t in tags if t != 'openai')}"
        )
    else:
        _log.warning(
            "note: %s has no tag; using %s, as in the architecture's configuration"
            " (give a tag with open_clip:%s:TAG@...)",
            name,
            "QuickGELU" if quick else "plain GELU",
            architecture,
        )
    model = _create(
        architecture,
        name=name,
        source=path,
        pretrained=str(path),
        force_quick_gelu=quick,
        force_preprocess_cfg={
            key: config[key]
            for key in ("mean", "std", "interpolation", "resize_mode")
            if config.get(key) is not None
        },
    )
    return OpenClipEncoder(
        model, _tokenizer(architecture, name=name), name=name, device=device, quick_gelu=quick
    )


def load_folder(folder: Path, *, name: str, device: str) -> OpenClipEncoder:
    """Return the encoder in a folder of open_clip's own format, with its tokenizer."""
    folder = folder.expanduser()
    if not (folder / "open_clip_config.json").is_file():
        raise UserError(
            f"{name}: {folder} has no open_clip_config.json; it is not an open_clip folder"
        )
    weights = _network.check_folder(folder, HUB_FILES[0], encoder=name)
    reference = f"local-dir:{folder}"
    model = _create(reference, name=name, source=weights)
    quick = bool((open_clip.get_model_config(reference) or {}).get("quick_gelu", False))
    return OpenClipEncoder(
        model, _tokenizer(reference, name=name), name=name, device=device, quick_gelu=quick
    )


class OpenClipEncoder(_network.PillowNetwork):
    """An open_clip model with its preprocessing and its tokenizer."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        device: str,
        quick_gelu: bool,
    ) -> None:
        self._preprocess: dict[str, Any] = dict(model.visual.preprocess_cfg)
        transform = image_transform_v2(PreprocessCfg(**self._preprocess), is_train=False)
        super().__init__(model, transform, name=name, device=device)
        self.embed = self._model.encode_image
        self.quick_gelu = quick_gelu
        self._tokenizer = tokenizer
        self.dim = self.encode_texts([""]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, open_clip's version, activation, preprocessing and dtype."""
        size = self._preprocess["size"]
        return encoder_fingerprint(
            weights=_network.hash_weights(self._model),
            library=f"open_clip {open_clip.__version__}",
            preprocessing={
                "size": [size, size] if isinstance(size, int) else list(size),
                "resizer": _network.RESIZER,
                "filter": self._preprocess["interpolation"],
                "resize_mode": self._preprocess["resize_mode"],
                "crop": "center",
                "mean": list(self._preprocess["mean"]),
                "std": list(self._preprocess["std"]),
                "quick_gelu": self.quick_gelu,
                "tokenizer": _describe_tokenizer(self._tokenizer),
            },
            dtype="float32",
        )

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Texts, truncated at the context length -> ND float32, unit norm."""
        return self.encode(
            texts, lambda batch: self._tokenizer(list(batch)), self._model.encode_text
        )

    @property
    def context(self) -> int:
        """The most tokens of a text that it reads, with the marks of beginning and end."""
        return int(self._tokenizer.context_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, counted in the same way."""
        inner = getattr(self._tokenizer, "tokenizer", None)  # transformers' own, if it has one
        if inner is None:
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        clean = getattr(self._tokenizer, "clean_fn", str)
        with _network.quiet_transformers():
            return [len(ids) for ids in inner([clean(text) for text in texts]).input_ids]


def _create(reference: str, *, name: str, source: Path, **keywords: Any) -> torch.nn.Module:
    try:
        model: torch.nn.Module = open_clip.create_model(
            reference, precision="fp32", require_pretrained=True, **keywords
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[min(1, len(lines) - 1)].strip()
        raise UserError(f"{name}: the weights in {source} do not fit: {reason[:200]}") from None
    _network.check_not_bent(source, model, encoder=name)
    return model


def _tokenizer(reference: str, *, name: str) -> Any:
    try:
        return open_clip.get_tokenizer(reference)
    except Exception as error:
        raise UserError(
            f"{name}: its tokenizer cannot be loaded ({str(error).strip().splitlines()[0]}); a "
            "folder needs tokenizer.json and tokenizer_config.json, the hub needs a network"
        ) from None


def _describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return class, context length and, if available, a hash of the whole tokenizer."""
    description: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "context_length": int(tokenizer.context_length),
    }
    backend = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    if backend is not None:
        description["sha256"] = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return description


def _is_half_precision(file: Path) -> bool:
    """Whether float16 holds every matrix of the transformer blocks exactly.

    OpenAI released its weights in float16, and the values stay the same when stored as float32.
    Other weights were trained and released in float32.
    """
    with safe_open(file, framework="pt") as tensors:
        matrices = [k for k in tensors.keys() if "resblocks" in k and k.endswith("weight")]  # noqa: SIM118
        for key in matrices:
            tensor = tensors.get_tensor(key).float()
            if tensor.ndim == 2 and not torch.equal(tensor, tensor.half().float()):
                return False
    return bool(matrices)
