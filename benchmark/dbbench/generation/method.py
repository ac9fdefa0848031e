"""The seam between harness and methods: a concept goes in, a checkpoint and images come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel, ValidationError

from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.plugins import _load
from dbbench.suites.sampling import SampleSettings
from dbbench.validation import explain_validation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dbbench.generation.backbone import Backbone

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with steps done, steps in all, and numbers to show, such as {"loss": 0.1}."""


@dataclass(frozen=True)
class Concept:
    """What a method may learn from: the reference images of one subject and its class noun."""

    name: str
    class_noun: str
    images: tuple[Image, ...]
    """RGB, 3 to 6 of them."""
    prior_images: tuple[Image, ...] = ()
    """Images of the class, drawn by the frozen backbone; empty for methods that need none."""
    snapshots: Mapping[float, Path] = field(default_factory=dict)
    """Shares of the training -> the folder that what was learned by then goes into."""


@dataclass(frozen=True)
class Checkpoint:
    """What a method learned: tensors by file, in the layouts that diffusers itself loads."""

    files: Mapping[str, Mapping[str, Tensor]]
    """Relative .safetensors name -> state dict, on the CPU."""
    metadata: Mapping[str, Any]
    """JSON: method, settings, seed, and what `generate` needs, such as the identifier."""
    losses: list[float] = field(default_factory=list)
    """One for each training step."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Relative .json name -> the config that diffusers wants beside a file."""

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

        Raises UserError where a file is missing or damaged.
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
    """Training stopped early; `checkpoint` holds the last good state."""

    def __init__(self, cause: str, checkpoint: Checkpoint) -> None:
        super().__init__(cause)
        self.checkpoint = checkpoint


class Method(Protocol):
    """Learns a concept from a few images on a frozen backbone.

    `fit` and `generate` find the backbone pristine and leave it pristine. A class with these
    members, built as `SomeMethod(SomeMethod.Settings(...))`, is all that a plugin is.
    """

    @property
    def name(self) -> str:
        """What suites, tables and folders call the method."""
        ...

    @property
    def Settings(self) -> type[BaseModel]:
        """The choices that it offers, with their defaults and descriptions."""
        ...

    @property
    def settings(self) -> BaseModel:
        """The choices that this instance was built with."""
        ...

    @property
    def needs_prior(self) -> bool:
        """Whether `fit` uses `Concept.prior_images`."""
        ...

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Checkpoint:
        """Learn `concept`; equal seeds give equal checkpoints on one machine."""
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
        """Draw one image for each prompt and its seed, in order."""
        ...


def checkpoint_metadata(
    method: Method, concept: Concept, backbone: Backbone, **own: Any
) -> dict[str, Any]:
    """Return what every checkpoint says of itself, and `own`, what the method needs of it later."""
    return {
        "method": method.name,
        "settings": method.settings.model_dump(),
        "backbone": backbone.fingerprint,
        "class_noun": concept.class_noun,
        **own,
    }


def save_files(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write state dicts, each into the .safetensors file of its relative name."""
    from safetensors.torch import save_file

    for name, tensors in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), path, metadata={"format": "pt"})


def snapshot_folder(checkpoint: Path, share: float) -> Path:
    """Return where a checkpoint's folder keeps what was learned by a share of the training."""
    return checkpoint / f"at-{share:g}"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def setting_names(method: str) -> tuple[str, ...]:
    """Return the names of a method's settings; imports the method, and so torch."""
    return tuple(_load("methods", method).Settings.model_fields)


def load_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Return a method with its settings checked. Raises UserError for an unknown or bad one."""
    method_class = _load("methods", name)
    try:
        checked = method_class.Settings.model_validate(dict(settings))
    except ValidationError as error:
        reason = explain_validation(error, method_class.Settings)
        raise UserError(f"method {name}: {reason}") from None
    return cast("Method", method_class(checked))
