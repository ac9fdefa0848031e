"""transformers encoders ("hf:..."): CLIP, SigLIP, DINO, DINOv2 from a folder or a hub id.

    hf:facebook/dinov2-small              from the hub, such as hf:openai/clip-vit-base-patch32
    hf:/path/folder                       a folder in transformers' own format: config.json,
                                          preprocessor_config.json, model.safetensors, and its
                                          tokenizer where the model reads texts
    hf:SOURCE@/path/x.safetensors         the same with weights from a file

Only safetensors are read, and no code from a repository is run. The feature is the model's own
image or text embedding (CLIP, SigLIP), or a plain ViT's class token after the last layer norm
(DINO, DINOv2). Pillow resizes the images, as in timm, open_clip, and transformers before version 5.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from dbbench.errors import UserError
from dbbench.evaluation.encoder import UnitVectors, encoder_fingerprint
from dbbench.evaluation.encoders import _network
from dbbench.files import fingerprint

HUB_FILES = ("model.safetensors", "model.safetensors.index.json")
_BACKEND: dict[str, Any] = (
    {"backend": "pil"}
    if int(transformers.__version__.partition(".")[0]) >= 5
    else {"use_fast": False}
)


def load(argument: str, *, device: str) -> HuggingFaceEncoder:
    """Return the encoder that "hf:ARGUMENT" names.

    Raises UserError for an unknown folder or repository, an unsupported model, a model that needs
    its own code, weights that do not fit, pickles, and a missing network.
    """
    name = f"hf:{argument}"
    source, _, file = argument.partition("@")
    folder = Path(source).expanduser()
    if folder.is_dir():
        source = str(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: {folder} has no config.json; it is not a transformers folder")
        if not file:
            _network.check_folder(folder, HUB_FILES[0], encoder=name)
    elif source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise UserError(f'{name}: "{source}" is neither a folder nor a hub id (owner/name)')
    elif not file:
        _network.hub_weights(source, HUB_FILES, encoder=name)
    weights = _network.local_weights(file, encoder=name) if file else None
    model = _create(source, weights, name=name)
    loader = transformers.AutoImageProcessor
    processor = _part(loader, source, name=name, what="image processor", **_BACKEND)
    tokenizer = None
    if hasattr(model, "get_text_features"):
        tokenizer = _part(transformers.AutoTokenizer, source, name=name, what="tokenizer")
    return HuggingFaceEncoder(model, processor, tokenizer, name=name, device=device)


class HuggingFaceEncoder(_network.FrozenNetwork):
    """A transformers model with its image processor, and its tokenizer if it encodes texts."""

    def __init__(
        self,
        model: torch.nn.Module,
        processor: Any,
        tokenizer: Any | None,
        *,
        name: str,
        device: str,
    ) -> None:
        super().__init__(model, name=name, device=device)
        self._processor, self._tokenizer = processor, tokenizer
        self.dim = self.encode_images([Image.new("RGB", (32, 32), "grey")]).shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, transformers' version, processor, tokenizer and dtype."""
        settings = json.loads(self._processor.to_json_string())
        vision = getattr(self._model.config, "vision_config", self._model.config)
        return encoder_fingerprint(
            weights=_network.hash_weights(self._model),
            library=f"transformers {transformers.__version__}",
            preprocessing={
                "class": type(self._processor).__name__,
                "resizer": _network.RESIZER,
                "settings": settings,
                "pool": "model" if self._tokenizer else "class token",
                "activation": str(getattr(vision, "hidden_act", "")),
                "tokenizer": self._describe_tokenizer(),
            },
            dtype="float32",
        )

    def encode_images(self, images: Sequence[Image.Image]) -> UnitVectors:
        """PIL images -> ND float32, unit norm."""
        return self.encode(
            images,
            lambda batch: self._processor(
                images=[image.convert("RGB") for image in batch], return_tensors="pt"
            ),
            self._forward,
        )

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Texts, truncated at the context length -> ND float32, unit norm.

        Raises UserError for a model that encodes images only.
        """
        if self._tokenizer is None:
            raise UserError(
                f"{self.name} cannot encode texts; use a CLIP or SigLIP model for this role "
                "(dbbench list encoders)"
            )
        return self.encode(
            texts,
            self._tokenize,
            lambda tokens: _features(self._model.get_text_features(**tokens)),
        )

    @property
    def context(self) -> int:
        """The most tokens of a text that it reads, with the marks of beginning and end."""
        return int(self._model.config.text_config.max_position_embeddings)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, counted in the same way."""
        assert self._tokenizer is not None
        with _network.quiet_transformers():
            return [len(ids) for ids in self._tokenizer(list(texts)).input_ids]

    def _forward(self, inputs: Any) -> torch.Tensor:
        if self._tokenizer is not None:
            return _features(self._model.get_image_features(**inputs))
        hidden: torch.Tensor = self._model(**inputs).last_hidden_state
        return hidden[:, 0]

    def _tokenize(self, texts: Sequence[str]) -> Any:
        # SigLIP was trained with padding to the full length; for CLIP, padding has no effect.
        return self._tokenizer(  # type: ignore[misc]
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        )

    def _describe_tokenizer(self) -> dict[str, Any] | None:
        if self._tokenizer is None:
            return None
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        rules: dict[str, Any] = {"vocabulary": sorted(self._tokenizer.get_vocab().items())}
        if backend is not None:
            rules = json.loads(backend.to_str())
            # Padding and truncation of the last call are not part of the tokenizer.
            rules.pop("padding", None)
            rules.pop("truncation", None)
        return {
            "class": type(self._tokenizer).__name__,
            "context_length": self.context,
            "rules": fingerprint(rules),
        }


def _features(output: Any) -> torch.Tensor:
    """Return the vectors; transformers 5 wraps them in an output object."""
    if isinstance(output, torch.Tensor):
        return output
    pooled: torch.Tensor = output.pooler_output
    return pooled


def _create(source: str, weights: Path | None, *, name: str) -> torch.nn.Module:
    """Create the model with its weights. Raises UserError if a tensor is missing or misfits."""
    here = {"trust_remote_code": False, "local_files_only": Path(source).is_dir()}
    try:
        with _network.quiet_transformers(), tempfile.TemporaryDirectory() as folder:
            config = transformers.AutoConfig.from_pretrained(source, **here)
            if weights is not None:
                # transformers renames older tensors only when it reads a folder itself.
                config.save_pretrained(folder)
                tensors = _network.read_weights(weights, encoder=name)
                save_file(tensors, Path(folder) / HUB_FILES[0], metadata={"format": "pt"})
                here["local_files_only"] = True
            model, report = transformers.AutoModel.from_pretrained(
                source if weights is None else folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **here,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be loaded: {reason}") from None
    # A plain ViT's pooler is for classifiers, and DINO's weights have none. It would be random and
    # change the fingerprint at each load. The class token does not depend on it.
    if not hasattr(model, "get_text_features") and getattr(model, "pooler", None) is not None:
        model.pooler = None
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    problems = sorted(missing) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if problems:
        raise UserError(f"{name}: the weights do not fit: {problems[0]} ({len(problems)} tensors)")
    if not (hasattr(model, "get_text_features") or hasattr(config, "patch_size")):
        raise UserError(
            f"{name} is a {config.model_type}; use a CLIP or SigLIP model, or a ViT such as DINO"
        )
    return model  # type: ignore[no-any-return]


def _part(loader: Any, source: str, *, name: str, what: str, **options: Any) -> Any:
    try:
        with _network.quiet_transformers():
            return loader.from_pretrained(
                source, trust_remote_code=False, local_files_only=Path(source).is_dir(), **options
            )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: its {what} cannot be loaded: {reason[:200]}") from None
