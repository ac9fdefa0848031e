"""Given weights: files that a method's settings name; their content decides what is made of them.

A plan asks for the hash of what lies at a path. It is remembered in suite.json with the identity of
each file (size, times, inode), so that files are read again only where one of them was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbbench.files import file_identity, files_in, fingerprint, hash_file

SETTINGS = ("checkpoint", "adapter")
"""Settings that hold a path or a hub id; another counts if it is a file's path."""
_PATH = ("/", "~", "./", "../")


@dataclass
class GivenWeights:
    """The hashes of given files and folders, by the path as a suite has it."""

    recorded: dict[str, dict[str, str]] = field(default_factory=dict)
    """What an earlier call found: path, stamp and sha256 of each."""
    found: dict[str, dict[str, str]] = field(default_factory=dict)
    """What this call found, in the same form."""
    trust: bool = False
    """Whether the recorded places hold, wherever this call was made from."""
    look: bool = True
    """Whether to look at what is there now."""
    _hashes: dict[tuple[int, ...], str] = field(default_factory=dict, repr=False)

    def content(self, settings: Mapping[str, Any], subject: str) -> dict[str, str]:
        """Return the SHA-256 of what each setting names for a subject, where there is something.

        What is no longer there counts as it was recorded.
        """
        named = {key: place.replace("{subject}", subject) for key, place in _places(settings)}
        hashes = {key: self._hash(place) for key, place in named.items()}
        return {key: value for key, value in hashes.items() if value is not None}

    def look_again(self) -> None:
        """Forget what this call found, as files may have been written since."""
        self.recorded |= self.found
        self.found.clear()

    def _hash(self, place: str) -> str | None:
        if place not in self.found:
            known = self.recorded.get(place, {})
            path = Path(known["path"] if self.trust and known else place).expanduser().absolute()
            files = list(files_in(path)) if self.look else []
            if not files:
                return known.get("sha256")
            stamp = fingerprint([str(path), [[str(f), *file_identity(f)] for f in files]])
            same = known.get("stamp") == stamp
            sha256 = known["sha256"] if same else self._read(path, files)
            self.found[place] = {"path": str(path), "stamp": stamp, "sha256": sha256}
        return self.found[place]["sha256"]

    def _read(self, path: Path, files: list[Path]) -> str:
        """Return the hash of a file, or of a folder's files with their names."""
        hashes = []
        for file in files:
            identity = tuple(file_identity(file))
            if identity not in self._hashes:  # Several folders may link to one file.
                self._hashes[identity] = hash_file(file)
            hashes.append([file.relative_to(path).as_posix(), self._hashes[identity]])
        return fingerprint(hashes) if path.is_dir() else hashes[0][1]


def _places(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if not isinstance(value, str) or not value:
            continue
        if key in SETTINGS or (value.startswith(_PATH) and Path(value).expanduser().is_file()):
            yield key, value
