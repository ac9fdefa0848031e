"""Subjects and where their images come from: the top of the flow, read by every later stage."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dbbench.errors import UserError, unknown
from dbbench.files import fingerprint

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["live", "object"]


@dataclass(frozen=True)
class Photo:
    """One photograph of the data set: what file it is, and whom to credit for it."""

    file: str
    """Its name inside the subject's folder."""
    sha256: str
    author: str
    licence: str
    url: str | None
    """Where it was published; None where the data set names no address."""
    size: int
    """In bytes."""
    note: str = ""
    """The data set's own remark, such as "02 flipped"."""

    @property
    def credit(self) -> str:
        """The line to show wherever the photograph is shown."""
        return f"{self.author} ({self.licence})"


@dataclass(frozen=True)
class Subject:
    """One thing or animal that a method shall learn from a few images."""

    name: str
    class_noun: str
    live: bool
    photos: tuple[Photo, ...]

    @property
    def kind(self) -> Kind:
        """Which of the two prompt lists is meant for it."""
        return "live" if self.live else "object"


@dataclass(frozen=True)
class ReferenceImage:
    """One image of a subject, ready to train on and to compare with."""

    name: str
    image: Image.Image
    """RGB, square, in the resolution asked for."""
    sha256: str
    """Of the bytes it was made from."""
    credit: str
    truth: dict[str, Any] | None
    """What the image is known to show; None for a photograph."""


class ImageSource(Protocol):
    """Where the images of a subject come from: photographs, or the embedded world."""

    @property
    def name(self) -> str:
        """A short name for tables and manifests."""

    def fingerprint(self, subject: Subject) -> str:
        """Return a hash of everything that decides the images of a subject."""

    def load(self, subject: Subject) -> tuple[ReferenceImage, ...]:
        """Return the images of a subject, always in the same order."""


@cache
def load_subjects() -> tuple[Subject, ...]:
    """Return the 30 subjects of the DreamBooth data set, in its own order."""
    document = tomllib.loads((files("dbbench.subjects") / "subjects.toml").read_text("utf-8"))
    return tuple(
        Subject(
            name=table["name"],
            class_noun=table["class_noun"],
            live=table["live"],
            photos=tuple(Photo(**{"url": None, **photo}) for photo in table["photos"]),
        )
        for table in document["subject"]
    )


def select_subjects(expression: str) -> tuple[Subject, ...]:
    """Return the subjects named by "all", "objects", "live" or a list such as "dog,teapot".

    The order is the list's own; a subject named twice counts once. Raises UserError for a name
    that does not exist, and for an empty list.
    """
    known = load_subjects()
    groups = {
        "all": known,
        "objects": tuple(subject for subject in known if not subject.live),
        "live": tuple(subject for subject in known if subject.live),
    }
    by_name = groups | {subject.name: (subject,) for subject in known}
    chosen: dict[str, Subject] = {}
    for name in filter(None, (part.strip() for part in expression.split(","))):
        if name not in by_name:
            raise unknown("subject", name, by_name, "dbbench list subjects")
        chosen |= {subject.name: subject for subject in by_name[name]}
    if not chosen:
        raise UserError(
            f'no subject in "{expression}"; write all, objects, live or names such as dog,teapot'
        )
    return tuple(chosen.values())


class PhotoFolder:
    """The data set's photographs on disk, verified, brought to sRGB and to one resolution.

    `path` holds one folder per subject (or a `dataset` folder that does, as upstream's repository
    has it). Raises UserError where it is not the data set. `resolution` is in pixels.
    """

    name = "photos"

    def __init__(self, path: Path, resolution: int) -> None:
        self.path = photo_root(path)
        self.resolution = resolution

    def fingerprint(self, subject: Subject) -> str:
        """Hash the originals and what is done to them; `load` makes sure that they are these."""
        return fingerprint(
            {
                "source": self.name,
                "photos": [photo.sha256 for photo in subject.photos],
                "resolution": self.resolution,
                "preparation": "exif-transpose, icc-to-srgb perceptual, centre square, lanczos",
            }
        )

    def load(self, subject: Subject) -> tuple[ReferenceImage, ...]:
        """Return the subject's photographs; raises UserError for one that is not the original."""
        return tuple(self._reference(subject, photo) for photo in subject.photos)

    def _reference(self, subject: Subject, photo: Photo) -> ReferenceImage:
        path = self.path / subject.name / photo.file
        if (problem := photo_problem(path, photo)) is not None:
            raise UserError(
                f"{path} {problem}; bring it back with: dbbench data fetch --out {self.path}"
            )
        return ReferenceImage(
            name=Path(photo.file).stem,
            image=prepare_photo(path.read_bytes(), self.resolution),
            sha256=photo.sha256,
            credit=photo.credit,
            truth=None,
        )


def prepare_photo(content: bytes, resolution: int) -> Image.Image:
    """Decode a photograph upright, in sRGB, cut to its central square, `resolution` pixels wide.

    The filter is Lanczos with its support scaled to the reduction, so that nothing aliases.
    """
    from PIL import Image, ImageOps

    from dbbench.picture import decode_picture

    return ImageOps.fit(decode_picture(content), (resolution, resolution), Image.Resampling.LANCZOS)


def photo_problem(path: Path, photo: Photo) -> str | None:
    """Return why the file is not the data set's photograph, to follow its name; None if it is."""
    try:
        size = path.stat().st_size
        if size != photo.size:
            return f"has {size:,} bytes where the original has {photo.size:,}"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found != photo.sha256:
        return f"was altered (SHA-256 {found[:12]} instead of {photo.sha256[:12]})"
    return None


def photo_root(path: Path, subjects: Iterable[Subject] | None = None) -> Path:
    """Return the folder that holds the subjects' folders: `path` itself or its `dataset` folder.

    Raises UserError where neither holds a single subject.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no folder {path}; get the photographs with: dbbench data fetch --out {path}"
        )
    names = [subject.name for subject in (load_subjects() if subjects is None else subjects)]
    for candidate in (path, path / "dataset"):
        if any((candidate / name).is_dir() for name in names):
            return candidate
    raise UserError(
        f"{path} is not the DreamBooth data set: it has no folder such as {names[0]}/;"
        f" get the photographs with: dbbench data fetch --out {path}"
    )
