"""The real images of each subject, with which images are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbbench.data.image_files import Folder, look_into, passed_over
from dbbench.data.photographs import Photographs, photo_problem
from dbbench.errors import UserError
from dbbench.image_sets.memory import ImageLike, keep
from dbbench.storage.disk import RECORD
from dbbench.storage.record import Record
from dbbench.storage.run_folder import REFERENCES

DEFAULT = Path("photos")
"""The default folder of the photographs."""
MINI = "mini"
"""Stands for the references of the embedded world, instead of a folder."""


@dataclass(frozen=True)
class References:
    """The real images of each subject, in order; some protocols use only the first."""

    where: str
    files: Mapping[str, tuple[Path, ...]]
    banner: str | None = None
    passed_over: str = ""
    """A line on files in the folder that are not used; "" if there are none."""


def find_references(chosen: str | None, subjects: Iterable[str], scratch: Path) -> References:
    """Return the references in a folder, in `photos` here, or those of the embedded world.

    A folder contains one folder for each subject, or is the data set's repository, or a run. Raises
    UserError if there are none. Images of the embedded world are drawn in `scratch`.
    """
    if chosen == MINI:
        return _draw(subjects, scratch / "references")
    folder = DEFAULT if chosen is None else Path(chosen)
    if not folder.is_dir():
        if chosen is None:
            raise UserError(
                "scores need photographs of the subjects; download them: dbbench data fetch --out"
                " photos; or use a folder with one folder for each subject: --references DIR"
            )
        raise UserError(
            f"there is no folder {folder} with references; correct its path, or get the photographs"
            " with: dbbench data fetch --out photos"
        )
    banner = Record(folder).suite().banner if (folder / RECORD).is_file() else None
    for place in (folder / REFERENCES, folder / "dataset", folder):
        inner = {path.name: look_into(path) for path in _folders(place)}
        if files := {name: found.images for name, found in inner.items() if found.images}:
            return References(str(place), files, banner, _not_used([inner[name] for name in files]))
    raise UserError(
        f"{folder} contains no references; it needs one folder of images for each subject: dog/"
    )


def given_references(images: Mapping[str, Sequence[ImageLike]], scratch: Path) -> References:
    """Return references from a Python program, by subject. PIL images are saved in `scratch`.

    Raises UserError for a subject without images.
    """
    for subject, own in images.items():
        if not own:
            raise UserError(f'no reference images of "{subject}"; give one or more')
    return References(
        "the call",
        {
            subject: tuple(
                keep(image, scratch / "references" / str(place) / f"{number:02d}")
                for number, image in enumerate(own)
            )
            for place, (subject, own) in enumerate(images.items())
        },
    )


def describe(references: References) -> str:
    """Return one line on the references, and whether they are the original photographs."""
    photos = {s.name: s.photos for s in Photographs().subjects}
    count = sum(map(len, references.files.values()))
    subjects = len(references.files)
    line = (
        f"{count} images of {subjects} subject{'' if subjects == 1 else 's'} in {references.where}"
        f"{f' ({references.passed_over})' if references.passed_over else ''}"
    )
    own = [name for name in references.files if name in photos]
    if references.banner or not own:
        return line
    original = all(
        len(references.files[name]) == len(photos[name])
        and all(
            photo_problem(file, photo) is None
            for file, photo in zip(references.files[name], photos[name], strict=True)
        )
        for name in own
    )
    return f"{line}, {'' if original else 'NOT '}the data set's own photographs"


def _folders(place: Path) -> tuple[Path, ...]:
    return look_into(place).folders if place.is_dir() else ()


def _not_used(subjects: Sequence[Folder]) -> str:
    deeper = sum(found.images_below() for found in subjects)
    below = f"{deeper} images in folders below a subject's are not used" if deeper else ""
    line = passed_over(path for found in subjects for path in found.others)
    return "; ".join(filter(None, (line, below)))


def _draw(subjects: Iterable[str], folder: Path) -> References:
    from dbbench.mini.source import MiniWorld
    from dbbench.suites.suite import load_suite

    suite = load_suite(MINI)
    world, wanted = MiniWorld(), set(subjects)
    files: dict[str, tuple[Path, ...]] = {}
    for subject in (each for each in world.subjects if each.name in wanted):
        place = folder / subject.name
        place.mkdir(parents=True, exist_ok=True)
        images = world.images(subject, suite.backbone.resolution)
        files[subject.name] = tuple(place / f"{n:02d}.png" for n in range(len(images)))
        for reference, path in zip(images, files[subject.name], strict=True):
            reference.image.save(path)
    return References("the embedded world", files, suite.banner)
