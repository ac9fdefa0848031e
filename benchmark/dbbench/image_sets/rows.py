"""The result of the readers, and the conversion of table records to rows."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dbbench.errors import UserError, nearest
from dbbench.files import Outside, contained
from dbbench.image_sets.image_set import ImageRow

IMAGE = ("image", "file_name")
MANIFEST_COLUMNS = (*IMAGE, "subject", "prompt", "text", "method", "seed", "class_noun")


class Named(NamedTuple):
    """The file of an image from a Python program, in any folder, and its name in tables."""

    file: Path
    name: str


@dataclass(frozen=True)
class Rows:
    """The rows of a source, and one line for each record that cannot be read."""

    rows: Sequence[ImageRow]
    refused: Sequence[str] = ()


def check_columns(found: Iterable[str], *, what: str) -> None:
    """Raise UserError if a table lacks the image, the subject, or both prompt and text."""
    columns = list(found)
    for wanted in (IMAGE, ("subject",), ("prompt", "text")):
        if any(name in columns for name in wanted):
            continue
        others = [column for column in columns if column not in MANIFEST_COLUMNS]
        guess = nearest(wanted[0], others)
        advice = f'; if it is "{guess}", rename that column' if guess else ""
        raise UserError(
            f"{what} has no column {' or '.join(wanted)}{advice} "
            f"(it has: {', '.join(columns) or 'none'})"
        )


def portable(path: str) -> str:
    """Return a path with the separators of this machine. Raises UserError for one of Windows' own.

    A manifest that Windows wrote separates folders by backslashes.
    """
    if Path(path).is_absolute():
        return path
    if re.match(r"[A-Za-z]:[\\/]|\\\\", path):
        raise UserError(
            f'image "{path}" is a path on a Windows machine; write it relative to the manifest,'
            " with / between folders"
        )
    return path.replace("\\", "/")


def from_records(
    records: Iterable[Mapping[str, Any]], *, what: str, folder: Path, scratch: Path
) -> Rows:
    """Turn records into rows. Paths are relative to `folder`; bytes are saved in `scratch`."""
    rows: list[ImageRow] = []
    refused: list[str] = []
    for number, record in enumerate(records, 1):
        where = f"{what} row {number}"
        try:
            rows.append(_row(record, where, folder, scratch))
        except UserError as error:
            refused.append(f"{where}: {error}")
    return Rows(rows, refused)


def _row(record: Mapping[str, Any], where: str, folder: Path, scratch: Path) -> ImageRow:
    values = {name: _text(record.get(name)) for name in MANIFEST_COLUMNS if name not in IMAGE}
    if not values["subject"]:
        raise UserError("it has no subject")
    if not values["prompt"] and not values["text"]:
        raise UserError("it has neither prompt nor text")
    image, name = _image(next((record[n] for n in IMAGE if record.get(n)), None), folder, scratch)
    seed = values.pop("seed")
    if seed and not seed.removesuffix(".0").isdecimal():
        raise UserError(f'seed "{seed}" is not an integer')
    number = int(seed.removesuffix(".0")) if seed else None
    return ImageRow(where=where, image=image, name=name, seed=number, **values)


def _image(value: Any, folder: Path, scratch: Path) -> tuple[Path, str]:
    """Return the file and the name of an image: a path, or a record with its bytes."""
    if isinstance(value, Named):
        return value
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            # Each record is an image of its own: equal ones count as they do in a folder.
            handle, file = tempfile.mkstemp(dir=scratch, prefix="image-")
            with open(handle, "wb") as stream:
                stream.write(content)
            return Path(file), str(path or hashlib.sha256(content).hexdigest()[:12])
        value = path
    if not isinstance(value, str) or not value:
        raise UserError("it has no image")
    value = portable(value)
    if Path(value).is_absolute():  # The author of the list chose this file.
        return Path(value), value
    try:
        return contained(folder, value), value
    except Outside:
        raise UserError(
            f'image "{value}" is outside of {folder}; write its absolute path, or move it into'
            " that folder"
        ) from None


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN is an empty cell of a table.
        return ""
    return " ".join(str(value).split())
