"""Finds the images in folders that users give: images to score, references and photographs.

One rule everywhere. A file is an image if its name ends like one (then a damaged one is refused by
name when it is decoded), or else if its content is one. What systems leave in folders (hidden files
and folders, ._*, Thumbs.db, __MACOSX) is not seen. Everything else is passed over and counted.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dbbench.errors import UserError

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".gif", ".bmp"}
    | {".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"}
)
"""File name endings of images, in lower case."""

_OF_SYSTEMS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
)
"""Files and folders of Windows, macOS and Synology, in lower case."""


@dataclass(frozen=True)
class Folder:
    """What a folder contains, in the order of names; numbers in names count by value."""

    images: tuple[Path, ...]
    folders: tuple[Path, ...]
    others: tuple[Path, ...]
    """Files that are not images, and hidden files that are."""

    def images_below(self) -> int:
        """Return the number of images in its folders and theirs."""
        inside = [look_into(folder) for folder in self.folders]
        return sum(len(found.images) + found.images_below() for found in inside)


def look_into(folder: Path) -> Folder:
    """Return the images, folders and other files in a folder. Raises UserError if unreadable."""
    try:
        paths = in_order(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None
    hidden = [path for path in paths if _is_hidden(path)]
    seen = [path for path in paths if not _is_hidden(path)]
    folders = tuple(path for path in seen if path.is_dir())
    files = [path for path in seen if not path.is_dir()]
    images = tuple(path for path in files if is_image(path))
    others = {*files} - {*images} | {path for path in hidden if _holds_image(path)}
    return Folder(images, folders, tuple(path for path in paths if path in others))


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its name, or else by its content."""
    return path.suffix.lower() in SUFFIXES or _holds_image(path)


def passed_over(others: Iterable[Path]) -> str:
    """Return a line that counts files which are not images, by their ending; "" if none."""
    endings = Counter(path.suffix.lower() or "without an ending" for path in others)
    if not endings:
        return ""
    counts = ", ".join(f"{number} {ending}" for ending, number in endings.most_common(5))
    more = ", ..." if len(endings) > 5 else ""
    number = endings.total()
    what = "file that is not an image" if number == 1 else "files that are not images"
    return f"passed over {number} {what} ({counts}{more})"


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by name, numbers in names by value: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, int | str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]

    return sorted(paths, key=key)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _OF_SYSTEMS


def _holds_image(path: Path) -> bool:
    """Return whether the content of a file is an image; opening a pipe would block."""
    from dbbench.data.decoding import image_format

    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as stream:
            return image_format(stream) is not None
    except OSError:
        return False
