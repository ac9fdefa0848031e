"""The interface between benchmark and methods: concept in, checkpoint and images out.

The train stage calls `Method.fit`, the sample stage `Method.generate`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel, ValidationError

from dbbench.advance import Advance
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.plugins import load_plugin
from dbbench.suites.sampling import SampleSettings
from dbbench.validation import explain_validation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dbbench.generation.backbone import Backbone


@dataclass(frozen=True)
class Concept:
    """The training input of a method: one subject's reference images and its class noun."""

    name: str
    class_noun: str
    images: tuple[Image, ...]
    """RGB, 3 to 6 of them."""
    prior_images: tuple[Image, ...] = ()
    """Images of the class from the frozen backbone; empty for methods that need none."""
    snapshots: Mapping[float, Path] = field(default_factory=dict)
    """Share of the training, 0 to 1 -> folder for the weights at that point."""


@dataclass(frozen=True)
class Checkpoint:
    """What a method learned: tensors by file, in layouts that diffusers loads."""

    files: Mapping[str, Mapping[str, Tensor]]
    """Relative .safetensors name -> state dict, on the CPU."""
    metadata: Mapping[str, Any]
    """JSON values: method, settings, seed, and what `generate` needs, such as the identifier."""
    losses: list[float] = field(default_factory=list)
    """One per training step."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Relative .json name -> the config that diffusers expects next to a weights file."""

    def save(self, folder: Path) -> None:
        """Write every file, and checkpoint.json with metadata and losses, into `folder`."""
        save_files(folder, self.files)
        for name, config in self.configs.items():
            _write_json(folder / name, config)
        listing = {"files": sorted(self.files), "configs": sorted(self.configs)}
        document = {**listing, "metadata": self.metadata, "losses": self.losses}
        _write_json(folder / "checkpoint.json", document)

    @classmethod
    def load(cls, folder: Path, *, at: float | None = None) -> Checkpoint:
        """Read what `save` wrote, or with `at` the snapshot at that share of the training.

        Raises UserError if a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        weights = folder if at is None else snapshot_folder(folder, at)
        try:
            document = json.loads((folder / "checkpoint.json").read_text("utf-8"))
            return cls(
                files={name: load_file(weights / name) for name in document["files"]},
                metadata=document["metadata"],
                losses=document["losses"],
                configs={
                    name: json.loads((folder / name).read_text("utf-8"))
                    for name in document["configs"]
                },
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"the checkpoint {folder} cannot be read ({error}); delete it to train again"
            ) from error


class Diverged(FloatingPointError):
    """Training stopped early; `checkpoint` holds the last valid state."""

    def __init__(self, cause: str, checkpoint: Checkpoint) -> None:
        super().__init__(cause)
        self.checkpoint = checkpoint


class Method(Protocol):
    """Learns a concept from a few images on a frozen backbone.

    `fit` and `generate` get the backbone in its original state and must restore it. A plug-in is a
    class with these members; dbbench builds it as `SomeMethod(SomeMethod.Settings(...))`.
    """

    @property
    def name(self) -> str:
        """The method's name in suites, tables and folders."""
        ...

    @property
    def Settings(self) -> type[BaseModel]:
        """The class of its settings, with defaults and descriptions."""
        ...

    @property
    def settings(self) -> BaseModel:
        """The settings of this instance."""
        ...

    @property
    def needs_prior(self) -> bool:
        """Whether `fit` uses `Concept.prior_images`."""
        ...

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Advance
    ) -> Checkpoint:
        """Learn `concept`; equal seeds give equal checkpoints on one machine.

        `progress` takes steps done, steps in total, and figures such as {"loss": 0.1}.
        """
        ...

    def generate(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[PromptTemplate],
        class_noun: str,
        backbone: Backbone,
        *,
        seeds: Sequence[int],
        sample: SampleSettings,
    ) -> Iterator[Image]:
        """Generate one image for each prompt and its seed, in order."""
        ...


def checkpoint_metadata(
    method: Method, concept: Concept, backbone: Backbone, **own: Any
) -> dict[str, Any]:
    """Return the metadata of every checkpoint, and `own`, what `generate` needs later."""
    return {
        "method": method.name,
        "settings": method.settings.model_dump(),
        "backbone": backbone.fingerprint,
        "class_noun": concept.class_noun,
        **own,
    }


def save_files(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write state dicts into `folder`, each to the .safetensors file of its relative name."""
    from safetensors.torch import save_file

    for name, tensors in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), path, metadata={"format": "pt"})


def snapshot_folder(checkpoint: Path, share: float) -> Path:
    """Return the subfolder of a checkpoint for the weights at a share of the training."""
    return checkpoint / f"at-{share:g}"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def setting_names(method: str) -> tuple[str, ...]:
    """Return the names of a method's settings; imports the method, and thus torch."""
    return tuple(load_plugin("methods", method).Settings.model_fields)


def load_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Return a method with checked settings. Raises UserError for an unknown method or setting."""
    method_class = load_plugin("methods", name)
    try:
        checked = method_class.Settings.model_validate(dict(settings))
    except ValidationError as error:
        reason = explain_validation(error, method_class.Settings)
        raise UserError(f"method {name}: {reason}") from None
    return cast("Method", method_class(checked))
