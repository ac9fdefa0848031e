"""The cache on disk: what an encoder said of an image or a text, kept for every later command.

    $DBBENCH_CACHE/features/<key>/       one folder for each encoder fingerprint
        about.json                       the encoder's name and fingerprint
        images-<key>.safetensors         keys (N, 32) uint8: SHA-256 of N files; rows (N, D) float32
        texts-<key>.safetensors          the same of texts
        distances-<key>.safetensors      keys (N, 32) uint8; matrix (N, N) float64

A file is written under a hidden name and renamed, and never changed after that, so that any number
of processes read and write without waiting for each other: at worst one works out what another
just did. Reading moves a file's time of change to now; over the limit the oldest go first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from dbbench.files import write_text
from dbbench.units import parse_size

Kind = Literal["images", "texts"]
Rows = dict[bytes, NDArray[np.float32]]
"""SHA-256 digest of an image file or a text -> its vector, (D,) float32."""

DEFAULT_LIMIT = 10 * 10**9  # bytes; a million vectors of 512 numbers are two of them
_KEPT_AFTER_EVICTION = 0.9
_SEAL = "sha256 of "  # followed by a tensor's name
_ABANDONED_SECONDS = 3600.0
_log = logging.getLogger("dbbench")


def cache_folder() -> Path:
    """Return $DBBENCH_CACHE, or the folder for caches that the system has for each user."""
    if chosen := os.environ.get("DBBENCH_CACHE"):
        return Path(chosen).expanduser()
    return user_cache_path("dbbench", appauthor=False)


def cache_limit() -> int:
    """Return $DBBENCH_CACHE_LIMIT in bytes ("500MB", "20GB"), by default 10 GB."""
    text = os.environ.get("DBBENCH_CACHE_LIMIT", "").strip()
    return parse_size(text, "DBBENCH_CACHE_LIMIT") if text else DEFAULT_LIMIT


@dataclass(frozen=True)
class Entry:
    """What the cache holds of one encoder."""

    encoder: str
    images: int
    texts: int
    matrices: int
    size: int
    """In bytes."""
    used: float
    """When it was last read or written, in seconds since 1970."""
    path: Path


@dataclass(frozen=True)
class Cache:
    """One cache folder and the most it may hold, in bytes."""

    folder: Path = field(default_factory=cache_folder)
    limit: int = field(default_factory=cache_limit)

    def shelf(self, encoder: str, fingerprint: str) -> Shelf:
        """Return the place of one encoder; `fingerprint` is all that its numbers depend on."""
        key = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
        return Shelf(self, self.folder / "features" / key, encoder, fingerprint)

    def entries(self) -> tuple[Entry, ...]:
        """Return what there is, the last used first."""
        found = [_entry(folder) for folder in (self.folder / "features").glob("*") if _is(folder)]
        return tuple(sorted(found, key=lambda entry: -entry.used))

    def clear(self, encoder: str | None = None) -> tuple[Entry, ...]:
        """Remove all, or what is of encoders with this name; return what was removed."""
        chosen = [e for e in self.entries() if encoder is None or e.encoder == encoder]
        for entry in chosen:
            shutil.rmtree(entry.path, ignore_errors=True)
        return tuple(chosen)

    def evict(self) -> int:
        """Remove what was not used for longest until the limit is kept; return how many files."""
        files = []
        for path in (self.folder / "features").glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue  # Another process was faster.
            if path.name.startswith(".") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)  # A process died while it wrote this.
            elif path.suffix == ".safetensors":
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return 0
        removed = 0
        for _, size, path in sorted(files):
            if total <= self.limit * _KEPT_AFTER_EVICTION:
                break
            path.unlink(missing_ok=True)
            total, removed = total - size, removed + 1
        return removed


@dataclass
class Shelf:
    """All that one encoder said; reads what other processes put there as well."""

    cache: Cache
    folder: Path
    encoder: str
    fingerprint: str
    _where: dict[tuple[str, bytes], tuple[Path, int]] = field(default_factory=dict, repr=False)
    _seen: set[Path] = field(default_factory=set, repr=False)

    def read(self, kind: Kind, keys: Iterable[bytes]) -> Rows:
        """Return the rows that are there, each (D,) float32."""
        self._look(kind)
        wanted: dict[Path, list[tuple[bytes, int]]] = {}
        for key in keys:
            if (place := self._where.get((kind, key))) is not None:
                wanted.setdefault(place[0], []).append((key, place[1]))
        rows: Rows = {}
        for path, places in wanted.items():
            loaded = _load(path, "rows")
            if loaded is None:
                self._seen.discard(path)
                continue
            rows |= {key: loaded[row].copy() for key, row in places if row < len(loaded)}
            _touch(path)
        return rows

    def write(self, kind: Kind, rows: Rows) -> None:
        """Keep these rows. A cache that cannot be written is said once and costs only time."""
        if not rows:
            return
        keys = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        tensors = {"keys": keys, "rows": np.stack(list(rows.values())).astype(np.float32)}
        self._save(self.folder / f"{kind}-{name}.safetensors", tensors, {})

    def read_matrix(self, name: str) -> tuple[list[bytes], NDArray[np.float64], dict[str, str]]:
        """Return keys, matrix and remarks of that name. Raises KeyError where there is none."""
        path = self.folder / f"distances-{name}.safetensors"
        keys, matrix = _load(path, "keys"), _load(path, "matrix")
        if keys is None or matrix is None:
            raise KeyError(name)
        _touch(path)
        return [key.tobytes() for key in keys], matrix, _remarks(path)

    def write_matrix(
        self,
        name: str,
        keys: list[bytes],
        matrix: NDArray[np.float64],
        remarks: Mapping[str, str],
    ) -> None:
        """Keep a matrix under a name."""
        tensors = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32),
            "matrix": np.asarray(matrix, dtype=np.float64),
        }
        self._save(self.folder / f"distances-{name}.safetensors", tensors, remarks)

    def _look(self, kind: Kind) -> None:
        """Take note of files that are new, and forget those that are gone."""
        there = set(self.folder.glob(f"{kind}-*.safetensors"))
        gone = {path for path in self._seen - there if path.name.startswith(kind)}
        if gone:
            self._where = {k: place for k, place in self._where.items() if place[0] not in gone}
        self._seen -= gone
        for path in sorted(there - self._seen):
            keys = _load(path, "keys")
            if keys is None or keys.ndim != 2 or keys.shape[1] != 32:
                continue
            self._seen.add(path)
            for row, key in enumerate(keys):
                self._where[kind, key.tobytes()] = (path, row)

    def _save(self, path: Path, tensors: dict[str, Any], remarks: Mapping[str, str]) -> None:
        from safetensors.numpy import save

        try:
            about = self.folder / "about.json"
            if not about.is_file():
                document = {"encoder": self.encoder, "fingerprint": self.fingerprint}
                write_text(about, json.dumps(document, indent=1) + "\n")
            hidden = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
            with hidden.open("wb") as stream:
                seals = {f"{_SEAL}{name}": _hash(tensor) for name, tensor in tensors.items()}
                stream.write(save(tensors, metadata=dict(remarks) | seals))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(hidden, path)
            self.cache.evict()
        except OSError as error:
            _say_once(f"features are not kept: {self.cache.folder} cannot be written ({error})")


def _load(path: Path, tensor: str) -> NDArray[Any] | None:
    """Return a tensor of a file; None where the file is gone; a damaged file is removed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            loaded: NDArray[Any] = tensors.get_tensor(tensor)
            if (tensors.metadata() or {}).get(f"{_SEAL}{tensor}") == _hash(loaded):
                return loaded
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError):
        pass
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _hash(tensor: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()


def _remarks(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as tensors:
        told = dict(tensors.metadata() or {})
        return {key: text for key, text in told.items() if not key.startswith(_SEAL)}


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        return  # Gone, or a folder that can only be read.


def _is(folder: Path) -> bool:
    return (folder / "about.json").is_file()


def _entry(folder: Path) -> Entry:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    counts = {"images": 0, "texts": 0, "distances": 0}
    size, used = 0, 0.0
    for path, status in _files(folder):
        size, used = size + status.st_size, max(used, status.st_mtime)
        kind = path.name.partition("-")[0]
        if path.suffix == ".safetensors" and kind in counts:
            counts[kind] += 1 if kind == "distances" else len(_keys(path))
    return Entry(
        encoder=str(about.get("encoder", "?")),
        images=counts["images"],
        texts=counts["texts"],
        matrices=counts["distances"],
        size=size,
        used=used,
        path=folder,
    )


def _keys(path: Path) -> NDArray[Any]:
    keys = _load(path, "keys")
    return np.zeros((0, 32), dtype=np.uint8) if keys is None else keys


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        try:
            yield path, path.stat()
        except OSError:
            continue


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        _log.warning("note: %s", line)
