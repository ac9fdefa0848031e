"""Reads images of a Python program: PIL images and paths, with the columns of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dbbench.errors import UserError
from dbbench.image_sets.rows import IMAGE, Named, Rows, check_columns, from_records, portable

ImageLike = Image.Image | str | Path
"""An image, or the path of its file."""

_PNG = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def read(records: Sequence[Mapping[str, Any]], scratch: Path) -> Rows:
    """Turn records with the columns of a manifest into rows; PIL images are saved in `scratch`.

    A path is relative to the current folder. Raises UserError for a missing column and for a PIL
    image that cannot be saved.
    """
    check_columns(dict.fromkeys(key for record in records for key in record), what="the table")
    folder = scratch / "images"
    named = [_named(record, number, folder) for number, record in enumerate(records)]
    return from_records(named, what="table", folder=Path(), scratch=scratch)


def keep(image: ImageLike, stem: Path) -> Path:
    """Return the path of an image's file; a PIL image is saved without loss as `stem`.png or .tif.

    Orientation, colour profile and transparency, which affect the decoding, are kept.
    """
    if not isinstance(image, Image.Image):
        return Path(image).expanduser()
    path = stem.with_name(stem.name + (".png" if image.mode in _PNG else ".tif"))
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"icc_profile": profile} if (profile := image.info.get("icc_profile")) else {}
    try:
        image.save(path, exif=image.getexif(), **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f'PIL image "{stem.name}" (mode {image.mode}) cannot be saved: {error};'
            ' convert it first: image.convert("RGB")'
        ) from None
    return path


def _named(record: Mapping[str, Any], number: int, folder: Path) -> dict[str, Any]:
    """Replace a record's image by its file; a PIL image is named by its position, from 0."""
    column = next((name for name in IMAGE if record.get(name) is not None), IMAGE[0])
    image = record.get(column)
    if isinstance(image, Image.Image):
        named = Named(keep(image, folder / str(number)), str(number))
    elif isinstance(image, str | Path) and str(image):
        file = portable(image) if isinstance(image, str) else image
        named = Named(Path(file).expanduser(), str(image))
    else:
        return dict(record)
    return {**record, column: named}
