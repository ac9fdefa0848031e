"""Loads a backbone's pipeline from a folder, a file or the hub; safetensors only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from huggingface_hub import HfApi, hf_hub_download
from safetensors import safe_open

from dbbench import hub
from dbbench.errors import UserError
from dbbench.generation.architectures import Architecture, architecture, text_encoders
from dbbench.generation.pipelines import components, given
from dbbench.generation.pipelines.understood import settle


def load_pipeline(
    source: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    variant: str | None = None,
) -> Any:
    """Return the pipeline that `source` names, without its safety checker.

    `source` is "mini", a diffusers folder, a .safetensors file or a hub id (`HF_HUB_OFFLINE=1`
    uses the local cache only). `config` is the folder or hub id with a single file's configuration.
    `variant` chooses among the files of a folder, such as "fp16"; the only one needs no choice.
    Raises UserError if it cannot be loaded whole, or if anything in it is not understood.
    """
    pipeline = _load(source, revision, config, variant)
    settle(pipeline)
    return pipeline


def _load(source: str, revision: str | None, config: str | None, variant: str | None) -> Any:
    if source == "mini":
        from dbbench import mini

        return _from_folder(mini.weights("backbone"), None)
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_folder(path, variant)
    if path.is_file() or path.suffix in given.PICKLED:
        given.check_file(path)
        return _from_file(path, config)
    if (
        path.suffix == ".safetensors"
        or source.startswith(("/", ".", "~"))
        or source.count("/") != 1
    ):
        raise UserError(
            f'no backbone "{source}": it is no folder, .safetensors file or hub id (owner/name)'
        )
    return _from_folder(_download(source, revision, variant), variant)


def _from_folder(folder: Path, variant: str | None) -> Any:
    index = _read_index(folder)
    kind = architecture(str(index.get("_class_name", "")), source=str(folder))
    for file in folder.glob("*/*"):  # also of tokenizers and configs
        if remedy := hub.pointer(file):
            raise UserError(remedy)
    encoders = [
        name
        for name, entry in index.items()
        if name.startswith("text_encoder") and isinstance(entry, list) and entry[0] is not None
    ]
    try:
        with quiet():
            parts = {
                name: components.load_part(folder, name, index.get(name), variant=variant)
                for name in (kind.denoiser, *encoders, "vae")
            }
            options = _options(kind, index)
            return _class(kind).from_pretrained(folder, **parts, **options)
    except components.FAULTS as error:
        raise UserError(f"cannot load the backbone {folder}: {_first_line(error)}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no model_index.json; give the folder of a diffusers pipeline"
        ) from None
    except (OSError, ValueError) as error:
        reason = hub.pointer(folder / "model_index.json") or str(error)
        raise UserError(f"cannot read {folder / 'model_index.json'}: {reason}") from error
    if not isinstance(index, dict):
        raise UserError(f"{folder / 'model_index.json'} is no list of parts; copy the folder anew")
    return index


def _from_file(path: Path, config: str | None) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = set(file.keys()), dict(file.metadata() or {})
        kind = architecture(_class_in(names), source=str(path))
        with quiet():
            pipeline = _class(kind).from_single_file(str(path), config=config, **_options(kind, {}))
    except NotImplementedError as error:  # weights that the file lacks were never allocated
        raise UserError(
            f"{path} lacks weights of its pipeline; use a complete checkpoint"
        ) from error
    except Exception as error:  # the library has classes of its own for some
        advice = (
            "; its configuration is fetched from the hub; without network, give the folder of a"
            " pipeline of the same class (--set backbone.config=FOLDER)"
        )
        raise UserError(
            f"cannot load the checkpoint {path}: {_first_line(error)}{'' if config else advice}"
        ) from error
    parts = (kind.denoiser, *text_encoders(pipeline), "vae")
    networks = {part: getattr(pipeline, part) for part in parts}
    components.account(path, networks)
    for part, network in networks.items():
        given.check_finite(network.state_dict().items(), f"{path}, {part}")
    _honour(given.Weights(path, dict.fromkeys(names, torch.empty(0)), metadata), pipeline)
    return pipeline


def _honour(file: given.Weights, pipeline: Any) -> None:
    """Take from a single file what it says of its noise: by empty tensors, or by metadata.

    "v_pred" and "ztsnr" are the tensors by which trainers mark velocity prediction and zero
    terminal SNR (arXiv 2305.08891, whose section 3.3 adds trailing steps).
    """
    said = file.metadata.get("modelspec.prediction_type")
    changes: dict[str, Any] = {}
    if "v_pred" in file.tensors or said in {"v", "v_prediction"}:
        changes["prediction_type"] = "v_prediction"
    elif said is not None:
        changes["prediction_type"] = said
    if "ztsnr" in file.tensors:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    given.note_metadata(file)
    if changes:
        pipeline.scheduler.register_to_config(**changes)


def _download(repository: str, revision: str | None, variant: str | None) -> Path:
    """Return the folder of a hub repository's files, fetched unless the cache has them."""
    try:
        with quiet(downloads=True):
            file = hf_hub_download(repository, "model_index.json", revision=revision)
            index = _read_index(Path(file).parent)
            kind = architecture(str(index.get("_class_name", "")), source=repository)
            folder = _class(kind).download(
                repository,
                revision=revision,
                use_safetensors=True,
                variant=variant or _only_variant(repository, revision, Path(file).parent, kind),
                **_unneeded(kind, index),
            )
            return Path(folder)
    except UserError:
        raise
    except Exception as error:  # the client of the hub has classes of its own
        reason = hub.explain(error, repository, revision=revision)
        raise UserError(f'no backbone "{repository}": {reason}') from error


def _only_variant(
    repository: str, revision: str | None, cached: Path, kind: Architecture
) -> str | None:
    """Return "fp16" for a repository whose denoiser comes in that variant alone, else None."""
    try:
        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        names = [each.rfilename for each in siblings]
    except Exception:  # no network: what the cache holds
        names = [str(file.relative_to(cached)) for file in cached.glob("*/*")]
    own = [Path(n) for n in names if n.startswith(f"{kind.denoiser}/") and n.endswith("tensors")]
    variants = {given.variant_of([name]) for name in own}
    return next(iter(variants)) if len(variants) == 1 else None


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
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Hide the libraries' own progress bars and log lines while weights load.

    With `downloads` the bars stay: transformers hides those of the hub's client too.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        if not downloads:
            library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _options(kind: Architecture, index: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    options |= _unneeded(kind, index)
    if kind.pipeline == "StableDiffusionPipeline":
        options["requires_safety_checker"] = False
    if kind.pipeline == "StableDiffusionXLPipeline":
        options["add_watermarker"] = False
    return options


def _unneeded(kind: Architecture, index: Mapping[str, Any]) -> dict[str, None]:
    """Return the parts that are not loaded, even where the pipeline lists them."""
    names = ["feature_extractor", "image_encoder"]
    if kind.pipeline == "StableDiffusionPipeline":
        names.append("safety_checker")
    if kind.pipeline == "StableDiffusion3Pipeline":  # its T5 encoder is optional
        optional = ("text_encoder_3", "tokenizer_3")
        names += [name for name in optional if list(index.get(name) or ()) == [None, None]]
    return dict.fromkeys(names)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
