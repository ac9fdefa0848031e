"""The feature cache on disk: vectors of images and texts, for all later commands.

    $DBBENCH_CACHE/features/<key>/       one folder for each encoder fingerprint
        about.json                       the encoder's name and fingerprint
        images-<key>.safetensors         keys (N, 32) uint8: SHA-256 of N files; rows (N, D) float32
        texts-<key>.safetensors          the same of texts
        distances-<key>.safetensors      keys (N, 32) uint8; matrix (N, N) float64

A file is written under a hidden name, renamed, and never changed after that. So any number of
processes can read and write without locks; at worst two of them compute the same vector. Reading a
file sets its modification time to now. Over the size limit, the oldest files are removed first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from dbbench.files import read_json, write_text
from dbbench.units import parse_size

Modality = Literal["images", "texts"]  # what the vectors describe
CachedVectors = dict[bytes, NDArray[np.float32]]
"""SHA-256 digest of an image file or a text -> its vector, (D,) float32."""

DEFAULT_LIMIT = 10 * 10**9  # bytes; a million vectors of 512 numbers take 2 GB
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
    """Summary of one encoder's cache, for `dbbench cache`."""

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

    def of_encoder(self, encoder: str, fingerprint: str) -> EncoderCache:
        """Return one encoder's cache; `fingerprint` covers everything its vectors depend on."""
        key = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
        return EncoderCache(self, self.folder / "features" / key, encoder, fingerprint)

    def entries(self) -> tuple[Entry, ...]:
        """Return one entry per encoder, the last used first."""
        abouts = (self.folder / "features").glob("*/about.json")
        return tuple(sorted(map(_entry, abouts), key=lambda entry: -entry.used))

    def clear(self, encoder: str | None = None) -> tuple[Entry, ...]:
        """Remove all entries, or those of encoders with this name; return them."""
        chosen = [e for e in self.entries() if encoder is None or e.encoder == encoder]
        for entry in chosen:
            shutil.rmtree(entry.path, ignore_errors=True)
        return tuple(chosen)

    def evict(self) -> int:
        """Remove the least recently used files until the limit is met; return their number."""
        files = []
        for path in (self.folder / "features").glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue  # Another process removed it.
            if path.name.startswith(".") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)  # A process died while writing this.
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
class EncoderCache:
    """One encoder's cached vectors, including those written by other processes."""

    cache: Cache
    folder: Path
    encoder: str
    fingerprint: str
    _locations: dict[tuple[str, bytes], tuple[Path, int]] = field(default_factory=dict, repr=False)
    _indexed: set[Path] = field(default_factory=set, repr=False)

    def read(self, modality: Modality, keys: Iterable[bytes]) -> CachedVectors:
        """Return the cached vectors among `keys`, each (D,) float32."""
        self._update_index(modality)
        wanted: dict[Path, list[tuple[bytes, int]]] = {}
        for key in keys:
            if (place := self._locations.get((modality, key))) is not None:
                wanted.setdefault(place[0], []).append((key, place[1]))
        rows: CachedVectors = {}
        for path, places in wanted.items():
            loaded = _load(path, "rows")
            if loaded is None:
                self._indexed.discard(path)
                continue
            rows |= {key: loaded[row].copy() for key, row in places if row < len(loaded)}
            _touch(path)
        return rows

    def write(self, modality: Modality, rows: CachedVectors) -> None:
        """Save these vectors. A cache that cannot be written gives one warning, and no error."""
        if not rows:
            return
        keys = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        tensors = {"keys": keys, "rows": np.stack(list(rows.values())).astype(np.float32)}
        self._save(self.folder / f"{modality}-{name}.safetensors", tensors, {})

    def read_matrix(self, name: str) -> tuple[list[bytes], NDArray[np.float64], dict[str, str]]:
        """Return keys, matrix and refused files of that name. Raises KeyError if there is none."""
        path = self.folder / f"distances-{name}.safetensors"
        keys, matrix = _load(path, "keys"), _load(path, "matrix")
        if keys is None or matrix is None:
            raise KeyError(name)
        _touch(path)
        return [key.tobytes() for key in keys], matrix, _refusals(path)

    def write_matrix(
        self,
        name: str,
        keys: list[bytes],
        matrix: NDArray[np.float64],
        refusals: Mapping[str, str],
    ) -> None:
        """Save a matrix under a name; `refusals` maps a key in hex to the reason."""
        tensors = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32),
            "matrix": np.asarray(matrix, dtype=np.float64),
        }
        self._save(self.folder / f"distances-{name}.safetensors", tensors, refusals)

    def _update_index(self, modality: Modality) -> None:
        """Index the keys of new files, and drop those of removed files."""
        present = set(self.folder.glob(f"{modality}-*.safetensors"))
        gone = {path for path in self._indexed - present if path.name.startswith(modality)}
        if gone:
            self._locations = {k: at for k, at in self._locations.items() if at[0] not in gone}
        self._indexed -= gone
        for path in sorted(present - self._indexed):
            keys = _load(path, "keys")
            if keys is None or keys.ndim != 2 or keys.shape[1] != 32:
                continue
            self._indexed.add(path)
            for row, key in enumerate(keys):
                self._locations[modality, key.tobytes()] = (path, row)

    def _save(self, path: Path, tensors: dict[str, Any], metadata: Mapping[str, str]) -> None:
        from safetensors.numpy import save

        try:
            about = self.folder / "about.json"
            if not about.is_file():
                document = {"encoder": self.encoder, "fingerprint": self.fingerprint}
                write_text(about, json.dumps(document, indent=1) + "\n")
            hidden = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
            with hidden.open("wb") as stream:
                seals = {f"{_SEAL}{name}": _hash(tensor) for name, tensor in tensors.items()}
                stream.write(save(tensors, metadata=dict(metadata) | seals))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(hidden, path)
            self.cache.evict()
        except OSError as error:
            _warn_once(f"features are not cached: {self.cache.folder} cannot be written ({error})")


def _load(path: Path, tensor: str) -> NDArray[Any] | None:
    """Return a tensor of a file, or None if the file is gone or damaged; remove a damaged file."""
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


def _refusals(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as tensors:
        metadata = dict(tensors.metadata() or {})
        return {key: text for key, text in metadata.items() if not key.startswith(_SEAL)}


def _touch(path: Path) -> None:
    with suppress(OSError):  # The file is gone, or the folder is read-only.
        os.utime(path)


def _entry(about: Path) -> Entry:
    """Return the summary of the folder of this about.json."""
    counts: Counter[str] = Counter()
    size, used = 0, 0.0
    for path in about.parent.iterdir():
        with suppress(OSError):  # Another process removed it.
            status = path.stat()
            size, used = size + status.st_size, max(used, status.st_mtime)
        modality = path.name.partition("-")[0]
        if path.suffix == ".safetensors" and (keys := _load(path, "keys")) is not None:
            counts[modality] += 1 if modality == "distances" else len(keys)
    return Entry(
        encoder=str(read_json(about).get("encoder", "?")),
        images=counts["images"],
        texts=counts["texts"],
        matrices=counts["distances"],
        size=size,
        used=used,
        path=about.parent,
    )


@cache
def _warn_once(line: str) -> None:
    _log.warning("note: %s", line)
