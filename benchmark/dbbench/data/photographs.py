"""The photographs of the DreamBooth data set on disk: verified, in sRGB, at one resolution."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dbbench.data.dataset import ReferenceImage
from dbbench.data.subject import Photo, Subject, load_subjects
from dbbench.errors import UserError
from dbbench.files import fingerprint

if TYPE_CHECKING:
    from PIL import Image


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
