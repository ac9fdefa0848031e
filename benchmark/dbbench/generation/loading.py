"""Loads a backbone's pipeline from a folder, a file or the hub; safetensors only."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open

from dbbench.errors import UserError
from dbbench.generation.architectures import Architecture, architecture

_PICKLED = {".ckpt", ".pt", ".pth", ".bin"}


def load_pipeline(source: str, *, revision: str | None = None, config: str | None = None) -> Any:
    """Return the pipeline that `source` names, without its safety checker.

    `source` is "mini", a diffusers folder, a .safetensors file or a hub id (`HF_HUB_OFFLINE=1`
    uses the local cache only). `config` is the folder or hub id with a single file's configuration.
    Raises UserError if it cannot be loaded or its pipeline class is not supported.
    """
    if source == "mini":
        from dbbench import mini

        return _from_folder(mini.weights("backbone"))
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in _PICKLED:
        raise UserError(f"{path} is pickled and could run any code; {_CONVERT}")
    if path.is_file():
        return _from_file(path, config)
    if (
        path.suffix == ".safetensors"
        or source.startswith(("/", ".", "~"))
        or source.count("/") != 1
    ):
        raise UserError(
            f'no backbone "{source}": it is no folder, .safetensors file or hub id (owner/name)'
        )
    return _from_hub(source, revision)


def _from_folder(folder: Path) -> Any:
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no model_index.json; give the folder of a diffusers pipeline"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / 'model_index.json'}: {error}") from error
    kind = architecture(str(index.get("_class_name", "")), source=str(folder))
    encoders = [
        name
        for name, entry in index.items()
        if name.startswith("text_encoder") and isinstance(entry, list) and entry[0] is not None
    ]
    for part in (kind.denoiser, *encoders, "vae"):
        files = [file for file in (folder / part).glob("*") if file.is_file()]
        if not any(file.suffix == ".safetensors" for file in files):
            if pickled := [file for file in files if file.suffix in _PICKLED]:
                raise UserError(f"{pickled[0]} is pickled and could run any code; {_CONVERT}")
            raise UserError(f"{folder / part} holds no .safetensors weights; copy the whole folder")
    for entry in index.values():
        # diffusers looks up a component's class only among imported modules.
        if isinstance(entry, list) and str(entry[0]).startswith("dbbench."):
            importlib.import_module(entry[0])
    try:
        with quiet():
            return _class(kind).from_pretrained(folder, **_options(kind, index))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load the backbone {folder}: {_first_line(error)}") from error


def _from_file(path: Path, config: str | None) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            kind = architecture(_class_in(set(file.keys())), source=str(path))
        with quiet():
            return _class(kind).from_single_file(str(path), config=config, **_options(kind, {}))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        advice = (
            "; its configuration is fetched from the hub; without network, give the folder of a"
            " pipeline of the same class (--set backbone.config=FOLDER)"
        )
        raise UserError(
            f"cannot load the checkpoint {path}: {_first_line(error)}{'' if config else advice}"
        ) from error


def _from_hub(repository: str, revision: str | None) -> Any:
    try:
        with quiet():
            file = hf_hub_download(repository, "model_index.json", revision=revision)
            index = json.loads(Path(file).read_text("utf-8"))
            kind = architecture(str(index.get("_class_name", "")), source=repository)
            options = _options(kind, index)
            return _class(kind).from_pretrained(repository, revision=revision, **options)
    except OSError as error:
        raise UserError(
            f'no backbone "{repository}": it is no local folder, and the hub cannot be reached or'
            " does not have it as safetensors; on a machine with network, run"
            f" `hf download {repository} --local-dir FOLDER`, and give FOLDER"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise UserError(f"cannot load the backbone {repository}: {_first_line(error)}") from error


def _class(kind: Architecture) -> Any:
    return getattr(diffusers, kind.pipeline)


def _class_in(names: set[str]) -> str:
    """Return the pipeline class of a checkpoint in the original layout, from its weight names."""
    if any(name.endswith("joint_blocks.0.context_block.attn.qkv.weight") for name in names):
        return "StableDiffusion3Pipeline"
    if any(name.startswith("conditioner.embedders.1.") for name in names):
        return "StableDiffusionXLPipeline"
    if any(name.startswith("model.diffusion_model.input_blocks.") for name in names):
        return "StableDiffusionPipeline"
    raise ValueError("no Stable Diffusion checkpoint in the original layout")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' own progress bars and log lines while weights load."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _options(kind: Architecture, index: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "use_safetensors": True,
        "dtype": torch.float32,  # files may be half precision; a Backbone holds float32
    }
    if kind.pipeline == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "requires_safety_checker": False}
    if kind.pipeline == "StableDiffusionXLPipeline":
        options["add_watermarker"] = False
    if kind.pipeline == "StableDiffusion3Pipeline":  # its T5 encoder is optional
        optional = ("text_encoder_3", "tokenizer_3")
        options |= {name: None for name in optional if list(index.get(name) or ()) == [None, None]}
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


_CONVERT = "convert it once to safetensors: dbbench data convert OLD NEW"
