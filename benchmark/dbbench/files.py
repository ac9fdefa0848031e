"""Small files: hashes, crash-safe writing, and names that may not leave their folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbbench.errors import UserError


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the value as canonical JSON (sorted keys, no blanks)."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_in(path: Path) -> Iterator[Path]:
    """Yield the file itself, or all files below a folder, links followed, in order of their names.

    Hidden files and folders are left out. Nothing where the path does not exist.
    """
    if path.is_file():
        yield path
    seen = set()
    for place, folders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()  # A link that leads back up.
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = (Path(place, name) for name in sorted(names) if not name.startswith("."))
        yield from (file for file in found if file.is_file())


def file_identity(path: Path) -> list[int]:
    """Return what changes whenever a file is written: device, inode, size, both times in ns."""
    status = path.stat()
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [status.st_dev, status.st_ino, status.st_size, *times]


def write_text(path: Path, text: str) -> None:
    """Write a small file; after a crash it is either the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


class Outside(UserError, ValueError):
    """A name in a manifest points outside the manifest's folder."""


def contained(folder: Path, name: str) -> Path:
    """Return folder/name. Raises Outside if that is not below the folder, links resolved."""
    path = folder / name
    bad = ".." in Path(name).parts or Path(name).is_absolute() or "\\" in name
    if bad or not path.resolve().is_relative_to(folder.resolve()):
        raise Outside(f'"{name}" points outside {folder}; the manifest that lists it was changed')
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if it is missing or unreadable."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
