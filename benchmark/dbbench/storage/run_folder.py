"""The files of an output folder: their paths, their formats and their readers.

    references/SUBJECT/references.json   runs/METHOD/SUBJECT/SEED/checkpoint/checkpoint.json
    prior/CLASS/prior.json                                       /samples/samples.json
    features/real/SUBJECT/ROLE/                                  /features/ROLE/

Stages write the JSON files with the classes below, and everything else reads them with the same
classes. A file that the manifest beside it lists is verified by its hash when it is read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from dbbench.files import contained, read_json, write_text
from dbbench.storage.artifact import MANIFEST, Artifact, Damaged
from dbbench.suites.runs import Run
from dbbench.validation import explain_validation

SCORES = "scores.parquet"
"""One row per image and metric."""
SCORES_MANIFEST = "scores.json"
"""The manifest of the score table and the leaderboard."""
LEADERBOARD = ("leaderboard.parquet", "leaderboard.csv", "leaderboard.md")
PAGE = "report/index.html"
RUNS, REFERENCES = "runs", "references"
SEED = re.compile(r"-?\d+").fullmatch


def references_folder(subject: str) -> str:
    """Return the folder of a subject's images; all names here are relative to the output folder."""
    return f"{REFERENCES}/{subject}"


def prior_folder(class_noun: str) -> str:
    """Return the folder of the class images that the backbone sampled for a class noun."""
    return f"prior/{class_noun.replace(' ', '-')}"


def run_folder(run: Run) -> str:
    """Return "runs/METHOD/SUBJECT/SEED"."""
    return f"{RUNS}/{run}"


def checkpoint_folder(run: Run) -> str:
    """Return the folder of a run's checkpoint."""
    return f"{run_folder(run)}/checkpoint"


def samples_folder(run: Run) -> str:
    """Return the folder of a run's images."""
    return f"{run_folder(run)}/samples"


def features_folder(run: Run, role: str) -> str:
    """Return the folder of the vectors of a run's images by the encoder for a role."""
    return f"{run_folder(run)}/features/{role}"


def real_features_folder(subject: str, role: str) -> str:
    """Return the folder of the vectors of a subject's references."""
    return f"features/real/{subject}/{role}"


def runs_in(out: Path) -> tuple[Run, ...]:
    """Return every run that has a folder in an output folder, ordered by folder name."""
    found = (path.parts[-3:] for path in sorted(out.glob(f"{RUNS}/*/*/*")))
    return tuple(Run(method, subject, int(seed)) for method, subject, seed in found if SEED(seed))


class _Recorded(BaseModel, frozen=True):
    """The content of one JSON file of an artifact; unknown keys are ignored."""

    FILE: ClassVar[str]

    folder: Path = Field(exclude=True)
    """The folder of the file."""

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Read it from an artifact. Raises Damaged if it does not match the manifest."""
        return cls._parse(artifact, artifact.read(cls.FILE))

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read it from a folder, or return None if the folder has none.

        Like `read`, but the file is not verified if no manifest lists it.
        """
        path = folder / cls.FILE
        return cls._parse(Artifact(folder, {}), read_file(path)) if path.is_file() else None

    @classmethod
    def _parse(cls, artifact: Artifact, content: bytes) -> Self:
        try:
            return cls(folder=artifact.path, **json.loads(content))
        except ValidationError as error:
            reason = explain_validation(error, cls)
            raise Damaged(artifact, f"{cls.FILE} cannot be read ({reason})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Damaged(artifact, f"{cls.FILE} cannot be read ({reason})") from None


class _Image(BaseModel, frozen=True):
    file: str


class Reference(_Image):
    """One reference image of a subject."""

    name: str = ""
    """Its name in the data set."""
    sha256: str = ""
    """The hash of its file in the data set."""
    credit: str = ""
    truth: dict[str, Any] | None = None
    """What a drawn image shows; None for a photograph."""


class Sample(_Image):
    """One generated image of a run."""

    prompt: str
    """The prompt's id."""
    category: str = ""
    number: int = 0
    """Its number among the images of its prompt, from 0 on."""
    seed: int = 0
    text: str = ""
    """The prompt without an identifier."""
    one_colour: bool | None = None
    """Whether it shows nothing; None, and not written, where it was not looked at."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = write(self)
        if self.one_colour is None:
            del document["one_colour"]
        return document


class ClassImage(_Image):
    """One class image, sampled from the backbone."""

    seed: int = 0


Image = TypeVar("Image", bound=_Image)


class _Images(_Recorded, Generic[Image]):
    """The images of a folder in order, each with its recorded data."""

    images: tuple[Image, ...]

    def path(self, image: Image) -> Path:
        """Return the path of an image. Raises Outside if its name points outside the folder."""
        return contained(self.folder, image.file)

    @property
    def paths(self) -> list[Path]:
        """The paths of the images, in order."""
        return [self.path(image) for image in self.images]

    def write(self) -> None:
        """Write FILE into the folder."""
        document = self.model_dump()
        document["images"] = document.pop("images")  # To the end, where readers look for it.
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / self.FILE, text)


class References(_Images[Reference]):
    """The images of a subject, at the backbone's resolution."""

    FILE = "references.json"

    subject: str = ""
    class_noun: str = ""
    kind: str = ""


class Samples(_Images[Sample]):
    """The generated images of a run."""

    FILE = "samples.json"

    method: str = ""
    subject: str = ""
    class_noun: str = ""
    kind: str = ""
    seed: int = 0


class ClassImages(_Images[ClassImage]):
    """The class images of a class noun."""

    FILE = "prior.json"

    class_noun: str = ""
    prompt: str = ""


class Training(_Recorded):
    """The record of a training; `dbbench.generation.method.Checkpoint` writes it."""

    FILE = "checkpoint.json"

    metadata: dict[str, Any] = Field(default_factory=dict)
    losses: tuple[float, ...] = ()

    @property
    def identifier(self) -> str:
        """The rare token that the method chose; "" if it has none."""
        return str(self.metadata.get("identifier") or "")


def references_of(out: Path, subject: str) -> References | None:
    """Return a subject's references in an output folder, or None."""
    return References.find(out / references_folder(subject))


def all_references(out: Path) -> dict[str, References]:
    """Return the references in an output folder, by subject."""
    named = sorted(path.name for path in out.glob(f"{REFERENCES}/*"))
    return {name: found for name in named if (found := references_of(out, name))}


def prior_of(out: Path, class_noun: str) -> ClassImages | None:
    """Return the class images of a class noun, or None."""
    return ClassImages.find(out / prior_folder(class_noun))


def samples_of(out: Path, run: Run) -> Samples | None:
    """Return the generated images of a run, or None."""
    return Samples.find(out / samples_folder(run))


def training_of(out: Path, run: Run) -> Training | None:
    """Return the record of a run's training, or None if its checkpoint was not kept."""
    return Training.find(out / checkpoint_folder(run))


def images_in(artifact: Artifact) -> References | Samples | ClassImages:
    """Return the images of an artifact of any stage. Raises Damaged if it contains none."""
    for kind in (Samples, References, ClassImages):
        if found := kind.find(artifact.path):
            return found
    raise Damaged(artifact, "it contains no images of a stage")


def read_file(path: Path) -> bytes:
    """Return the bytes of an artifact's file, which is in its folder or one level below.

    Raises Damaged if they do not match the manifest. They are not verified if no manifest lists the
    file, for example because the images were copied from their artifact.
    """
    folder = next((p for p in path.parents[:2] if (p / MANIFEST).is_file()), path.parent)
    artifact, name = Artifact(folder, {}), path.relative_to(folder).as_posix()
    try:
        listed = {entry["name"] for entry in read_json(folder / MANIFEST).get("files", ())}
        return artifact.read(name) if name in listed else path.read_bytes()
    except (OSError, KeyError, TypeError) as error:
        raise Damaged(artifact, f"{name} cannot be read ({error})") from None
