"""What lies where in an output folder and what is recorded there: names, format and reader.

    references/SUBJECT/references.json   runs/METHOD/SUBJECT/SEED/checkpoint/checkpoint.json
    prior/CLASS/prior.json                                       /samples/samples.json
    features/real/SUBJECT/ROLE/                                  /features/ROLE/

Stages write these files through the classes below, everything else reads them through the same
ones. What is read is compared with the hash in the manifest beside it, where that lists the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import override

from dbbench.files import contained, read_json, write_text
from dbbench.storage.artifact import MANIFEST, Artifact, Damaged
from dbbench.suites.runs import Run

SCORES = "scores.parquet"
"""One row per image and metric."""
SCORES_MANIFEST = "scores.json"
"""What the score table was made from, and the hashes of it and of the leaderboard."""
LEADERBOARD = ("leaderboard.parquet", "leaderboard.csv", "leaderboard.md")
PAGE = "report/index.html"
RUNS, REFERENCES = "runs", "references"
SEED = re.compile(r"-?\d+").fullmatch


def references_folder(subject: str) -> str:
    """Return the folder of a subject's images; like all names here it is inside the output's."""
    return f"{REFERENCES}/{subject}"


def prior_folder(class_noun: str) -> str:
    """Return the folder of the backbone's own images of a class noun."""
    return f"prior/{class_noun.replace(' ', '-')}"


def run_folder(run: Run) -> str:
    """Return the folder of a run."""
    return f"{RUNS}/{run}"


def checkpoint_folder(run: Run) -> str:
    """Return the folder of what a run's method learned."""
    return f"{run_folder(run)}/checkpoint"


def samples_folder(run: Run) -> str:
    """Return the folder of a run's images."""
    return f"{run_folder(run)}/samples"


def features_folder(run: Run, role: str) -> str:
    """Return the folder of the vectors that the encoder in a role gave for a run's images."""
    return f"{run_folder(run)}/features/{role}"


def real_features_folder(subject: str, role: str) -> str:
    """Return the folder of the vectors of a subject's references."""
    return f"features/real/{subject}/{role}"


def runs_in(out: Path) -> tuple[Run, ...]:
    """Return every run of which there is something in an output folder, ordered by folder name."""
    found = (path.parts[-3:] for path in sorted(out.glob(f"{RUNS}/*/*/*")))
    return tuple(Run(method, subject, int(seed)) for method, subject, seed in found if SEED(seed))


class _Recorded(BaseModel, frozen=True):
    """What one JSON file of an artifact records; keys that it does not know are left out."""

    FILE: ClassVar[str]

    folder: Path = Field(exclude=True)
    """Where it was read, or will be written."""

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Read it from an artifact. Raises Damaged where its bytes are not those once written."""
        return cls._parse(artifact, artifact.read(cls.FILE))

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read it from a folder, or return None where there is none.

        As `read`, but a folder without a manifest, or whose manifest does not list it, is accepted.
        """
        path = folder / cls.FILE
        return cls._parse(Artifact(folder, {}), read_file(path)) if path.is_file() else None

    @classmethod
    def _parse(cls, artifact: Artifact, content: bytes) -> Self:
        try:
            return cls._build(artifact.path, json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Damaged(artifact, f"{cls.FILE} cannot be read ({reason})") from None

    @classmethod
    def _build(cls, folder: Path, document: dict[str, Any]) -> Self:
        return cls(folder=folder, **document)


class _Image(BaseModel, frozen=True):
    file: str


class Reference(_Image):
    """One image of a subject."""

    name: str = ""
    """What it was called where it came from."""
    sha256: str = ""
    """Of the bytes that it was made from."""
    credit: str = ""
    truth: dict[str, Any] | None = None
    """What it is known to show; None for a photograph."""


class Sample(_Image):
    """One image of a run."""

    prompt: str
    """The prompt's id."""
    category: str = ""
    number: int = 0
    """Which of the images of its prompt it is, from 0 on."""
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
    """One image that the backbone drew of a class noun."""

    seed: int = 0


Image = TypeVar("Image", bound=_Image)


class _Images(_Recorded, Generic[Image]):
    """Images of a folder in their order, each with what is recorded of it."""

    images: tuple[Image, ...]

    def path(self, image: Image) -> Path:
        """Return where an image lies. Raises Outside where its name leads out of the folder."""
        return contained(self.folder, image.file)

    @property
    def paths(self) -> list[Path]:
        """Where the images lie, in their order."""
        return [self.path(image) for image in self.images]

    def write(self) -> None:
        """Write the file into the folder."""
        document = self.model_dump()
        document["images"] = document.pop("images")  # To the end, where readers look for it.
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / self.FILE, text)

    @classmethod
    @override
    def _build(cls, folder: Path, document: dict[str, Any]) -> Self:
        images = document.pop("images")
        return cls(folder=folder, images=images, **document)


class References(_Images[Reference]):
    """The images of a subject, at the backbone's resolution."""

    FILE = "references.json"

    subject: str = ""
    class_noun: str = ""
    kind: str = ""


class Samples(_Images[Sample]):
    """The images of a run."""

    FILE = "samples.json"

    method: str = ""
    subject: str = ""
    class_noun: str = ""
    kind: str = ""
    seed: int = 0


class ClassImages(_Images[ClassImage]):
    """The backbone's own images of a class noun."""

    FILE = "prior.json"

    class_noun: str = ""
    prompt: str = ""


class Training(_Recorded):
    """What is recorded of a training; `dbbench.generation.method.Checkpoint` writes it."""

    FILE = "checkpoint.json"

    metadata: dict[str, Any] = Field(default_factory=dict)
    losses: tuple[float, ...] = ()

    @property
    def identifier(self) -> str:
        """The rare token that the method chose; "" where it has none."""
        return str(self.metadata.get("identifier") or "")


def references_of(out: Path, subject: str) -> References | None:
    """Return a subject's images in an output folder, or None where there are none."""
    return References.find(out / references_folder(subject))


def all_references(out: Path) -> dict[str, References]:
    """Return the images of every subject that an output folder has some of, by subject."""
    named = sorted(path.name for path in out.glob(f"{REFERENCES}/*"))
    return {name: found for name in named if (found := references_of(out, name))}


def prior_of(out: Path, class_noun: str) -> ClassImages | None:
    """Return the backbone's images of a class noun, or None where there are none."""
    return ClassImages.find(out / prior_folder(class_noun))


def samples_of(out: Path, run: Run) -> Samples | None:
    """Return the images of a run, or None where it has none."""
    return Samples.find(out / samples_folder(run))


def training_of(out: Path, run: Run) -> Training | None:
    """Return what is recorded of a run's training, or None where no checkpoint is kept."""
    return Training.find(out / checkpoint_folder(run))


def images_in(artifact: Artifact) -> References | Samples | ClassImages:
    """Return the images of an artifact, of whatever kind. Raises Damaged where it holds none."""
    for kind in (Samples, References, ClassImages):
        if found := kind.find(artifact.path):
            return found
    raise Damaged(artifact, "it holds no images of a stage")


def read_file(path: Path) -> bytes:
    """Return the bytes of an artifact's file, which lies in its folder or one level below.

    Raises Damaged where they are not those once written; without a manifest that lists the file,
    as beside images that were copied elsewhere, they are not compared.
    """
    folder = next((p for p in path.parents[:2] if (p / MANIFEST).is_file()), path.parent)
    artifact, name = Artifact(folder, {}), path.relative_to(folder).as_posix()
    try:
        listed = {entry["name"] for entry in read_json(folder / MANIFEST).get("files", ())}
        return artifact.read(name) if name in listed else path.read_bytes()
    except (OSError, KeyError, TypeError) as error:
        raise Damaged(artifact, f"{name} cannot be read ({error})") from None
