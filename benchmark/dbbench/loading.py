"""Where a backbone's weights come from: a folder, a file or the hub; safetensors only."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from dbbench.errors import UserError

_PICKLED = {".ckpt", ".pt", ".pth", ".bin"}


def load_pipeline(source: str, *, revision: str | None = None) -> Any:
    """Return the Stable Diffusion pipeline that `source` names, without its safety checker.

    `source` is "mini", a diffusers folder, a .safetensors file or a hub id (`HF_HUB_OFFLINE=1`
    keeps to the local cache). Raises UserError where it cannot be had.
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
        return _from_file(path)
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
    if (kind := index.get("_class_name")) != "StableDiffusionPipeline":
        raise UserError(f"{folder} is a {kind}; a StableDiffusionPipeline is needed")
    for part in ("unet", "text_encoder", "vae"):
        files = [file for file in (folder / part).glob("*") if file.is_file()]
        if not any(file.suffix == ".safetensors" for file in files):
            if pickled := [file for file in files if file.suffix in _PICKLED]:
                raise UserError(f"{pickled[0]} is pickled and could run any code; {_CONVERT}")
            raise UserError(f"{folder / part} holds no .safetensors weights; copy the whole folder")
    for entry in index.values():
        # diffusers takes a component's class from modules already imported, and imports none.
        if isinstance(entry, list) and str(entry[0]).startswith("dbbench."):
            importlib.import_module(entry[0])
    try:
        with _quiet():
            return diffusers.StableDiffusionPipeline.from_pretrained(folder, **_OPTIONS)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot load the backbone {folder}: {_first_line(error)}") from error


def _from_file(path: Path) -> Any:
    try:
        with _quiet():
            return diffusers.StableDiffusionPipeline.from_single_file(str(path), **_OPTIONS)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot load the checkpoint {path}: {_first_line(error)}; its configuration comes from"
            " the hub, so without network convert it to a diffusers folder elsewhere"
        ) from error


def _from_hub(repository: str, revision: str | None) -> Any:
    try:
        with _quiet():
            return diffusers.StableDiffusionPipeline.from_pretrained(
                repository, revision=revision, **_OPTIONS
            )
    except OSError as error:
        raise UserError(
            f'no backbone "{repository}": there is no such folder here, and the hub cannot be'
            " reached or does not have it as safetensors; where there is network, run"
            f" `hf download {repository} --local-dir FOLDER`, and give FOLDER"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise UserError(f"cannot load the backbone {repository}: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own bars and notices off the terminal while weights load."""
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


_OPTIONS = {
    "safety_checker": None,
    "requires_safety_checker": False,
    "use_safetensors": True,
    "dtype": torch.float32,  # files may hold halves; a Backbone computes from float32
}
_CONVERT = (
    "where you trust it, convert it once: StableDiffusionPipeline.from_pretrained(OLD)"
    ' (or .from_single_file).save_pretrained("NEW"), and give the folder NEW'
)
