"""The photographs of the DreamBooth data set: verified, in sRGB, at one resolution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dbbench.data.dataset import ReferenceImage
from dbbench.data.prompt import PromptTemplate, load_prompts
from dbbench.data.subject import Photo, Subject, load_subjects
from dbbench.errors import UserError
from dbbench.files import fingerprint

if TYPE_CHECKING:
    from PIL import Image


class Photographs:
    """The 30 subjects of the DreamBooth data set, and their photographs where they are on disk.

    `folder` contains one folder per subject, or a folder `dataset` that does, as in the repository
    google/dreambooth. Raises UserError if it is not the data set.
    """

    name = "photos"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = None if folder is None else photo_root(folder)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The subjects in the data set's own order."""
        return load_subjects()

    def prompts(self, subject: Subject) -> tuple[PromptTemplate, ...]:
        """Return the 25 prompts for live subjects or for objects."""
        return load_prompts(subject.live)

    def fingerprint(self, subject: Subject, resolution: int) -> str:
        """Return a hash of the original photographs and their preparation; `images` checks them."""
        return fingerprint(
            {
                "source": self.name,
                "photos": [photo.sha256 for photo in subject.photos],
                "resolution": resolution,
                "preparation": "exif-transpose, icc-to-srgb perceptual, centre square, lanczos",
            }
        )

    def images(self, subject: Subject, resolution: int) -> tuple[ReferenceImage, ...]:
        """Return the subject's photographs. Raises UserError if one differs from the original."""
        if self.folder is None:
            raise UserError(
                'the photographs are needed: get them with "dbbench data fetch --out photos", then'
                " add --data photos"
            )
        folder = self.folder / subject.name
        return tuple(_reference(folder / photo.file, photo, resolution) for photo in subject.photos)


def _reference(path: Path, photo: Photo, resolution: int) -> ReferenceImage:
    if (problem := photo_problem(path, photo)) is not None:
        raise UserError(
            f"{path} {problem}; restore it with: dbbench data fetch --out {path.parent.parent}"
        )
    return ReferenceImage(
        name=Path(photo.file).stem,
        image=prepare_photo(path.read_bytes(), resolution),
        sha256=photo.sha256,
        credit=photo.credit,
    )


def prepare_photo(content: bytes, resolution: int) -> Image.Image:
    """Decode a photograph upright, in sRGB, cut to its central square, `resolution` pixels wide.

    The filter is Lanczos; its support is scaled with the reduction, to prevent aliasing.
    """
    from PIL import Image, ImageOps

    from dbbench.data.decoding import decode_picture

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

    Raises UserError if neither contains the folder of a subject.
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
