"""The feature store: image files and texts -> vectors, each computed once; used by all commands.

A distinct image is decoded once and goes through each encoder once, however many references,
protocols and runs use it. An image is identified by the SHA-256 of its file. A vector's key is
this hash, the encoder's fingerprint and the version of the decoding rules (`data/decoding.py`).
Two files with different bytes are two images, even if their pixels are equal.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dbbench.advance import Advance, silent
from dbbench.data.decoding import RULES, PictureError, decode_picture, read_bytes
from dbbench.evaluation.encoder import Distance, Encoder, Preparing, UnitVectors
from dbbench.evaluation.feature_cache import Cache, CachedVectors, EncoderCache
from dbbench.files import fingerprint

if TYPE_CHECKING:
    from PIL import Image

BATCH = 64
"""Images in a batch of an encoder."""
_BATCH_PIXELS = 2**26  # A smaller batch, if an encoder takes large images unresized.
_ROWS_A_FILE = 16 * BATCH  # At most this many vectors are lost if the process is killed.


@dataclass(frozen=True)
class Encoded:
    """One encoder's vectors of image files."""

    vectors: UnitVectors
    """One row for each valid image file, in the order of the files."""
    kept: tuple[int, ...]
    """Row i belongs to files[kept[i]]."""
    refused: Mapping[Path, str]
    """Why a file is not a valid image; follows its name: "is empty (0 bytes)"."""


@dataclass(frozen=True)
class Distances:
    """The distances between all pairs of files."""

    matrix: NDArray[np.float64]
    """KK, symmetric, zeros on the diagonal; K = len(kept)."""
    kept: tuple[int, ...]
    """Row and column i belong to files[kept[i]]."""
    refused: Mapping[Path, str]
    """As in `Encoded`."""


@dataclass
class FeatureStore:
    """Vectors of files and texts; takes them from the cache if they are there.

    Pass all encoders to one call of `encode_with`, so that each file is decoded only once.
    `workers` threads decode and resize while the encoder computes; their memory is bounded.
    """

    cache: Cache = field(default_factory=Cache)
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    decoded: int = 0
    """Files decoded so far."""
    encoded: Counter[str] = field(default_factory=Counter)
    """Images that went through each encoder so far, by its name."""
    _caches: dict[str, EncoderCache] = field(default_factory=dict, repr=False)
    _hashes: dict[tuple[Any, ...], bytes] = field(default_factory=dict, repr=False)

    def encode_images(
        self, encoder: Encoder, files: Sequence[Path], *, advance: Advance = silent
    ) -> Encoded:
        """Return the vectors of image files; invalid files are listed in `refused`."""
        return self.encode_with([encoder], files, advance=advance)[0]

    def encode_with(
        self, encoders: Sequence[Encoder], files: Sequence[Path], *, advance: Advance = silent
    ) -> tuple[Encoded, ...]:
        """Return the vectors of each encoder; every file is read and decoded once."""
        keys, problems = self._identify(files)
        distinct = _distinct(keys, files)
        known: dict[str, CachedVectors] = {}
        missing: dict[bytes, list[Encoder]] = {}
        for encoder in {encoder.fingerprint: encoder for encoder in encoders}.values():
            rows = self._cache_of(encoder).read("images", distinct)
            known[encoder.fingerprint] = rows
            for key in distinct:
                if key not in rows:
                    missing.setdefault(key, []).append(encoder)
        total = len(distinct) * len(known)
        done = sum(map(len, known.values()))
        advance(done, total, {})
        batchers = {e.fingerprint: _Batcher(self, e, known[e.fingerprint]) for e in encoders}
        try:
            for key, result in self._decode(missing, distinct):
                if isinstance(result, PictureError):
                    problems[key] = str(result)
                    done += len(missing[key])
                    continue
                for encoder, image in zip(missing[key], result, strict=True):
                    if count := batchers[encoder.fingerprint].add(key, image):
                        done += count
                        advance(done, total, {})
            for batcher in batchers.values():
                if count := batcher.flush():
                    done += count
                    advance(done, total, {})
        finally:
            for batcher in batchers.values():
                batcher.save()
        refused = _refused(files, keys, problems)
        kept = tuple(i for i, key in enumerate(keys) if key is not None and key not in problems)
        return tuple(
            Encoded(_stack(encoder, known[encoder.fingerprint], keys, kept), kept, refused)
            for encoder in encoders
        )

    def encode_texts(self, encoder: Encoder, texts: Sequence[str]) -> UnitVectors:
        """Return the vector of each text; ND float32, unit norm."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        cache = self._cache_of(encoder)
        rows = cache.read("texts", distinct)
        if missing := [key for key in distinct if key not in rows]:
            vectors = encoder.encode_texts([distinct[key] for key in missing])
            new = dict(zip(missing, np.asarray(vectors, dtype=np.float32), strict=True))
            cache.write("texts", new)
            rows |= new
        return _stack(encoder, rows, keys, range(len(keys)))

    def distances(
        self, distance: Distance, files: Sequence[Path], *, advance: Advance = silent
    ) -> Distances:
        """Return the distances between all pairs of files; each image is encoded once.

        Pass all files that are compared in one call, such as a subject's generated and real images,
        and use the needed blocks: the matrix is cached as a whole.
        """
        keys, problems = self._identify(files)
        paths = _distinct(keys, files)
        order = sorted(paths)
        cache = self._cache_of(distance)
        name = hashlib.sha256(b"".join(order)).hexdigest()[:32]
        try:
            seen, matrix, refusals = cache.read_matrix(name)
        except KeyError:
            seen = []
            found: dict[str, str] = {}

            def images() -> Iterator[Image.Image]:
                for key, result in self._decode(dict.fromkeys(order, (distance,)), paths):
                    if isinstance(result, PictureError):
                        found[key.hex()] = str(result)
                        continue
                    seen.append(key)
                    yield result[0]
                    advance(len(seen) + len(found), len(order), {})

            matrix, refusals = distance.pairwise_distances(images()), found
            self.encoded[distance.name] += len(seen)
            cache.write_matrix(name, seen, matrix, refusals)
        problems |= {bytes.fromhex(key): reason for key, reason in refusals.items()}
        place = {key: number for number, key in enumerate(seen)}
        kept = tuple(i for i, key in enumerate(keys) if key in place)
        rows = [place[key] for i in kept if (key := keys[i]) is not None]
        advance(len(order), len(order), {})
        return Distances(matrix[np.ix_(rows, rows)], kept, _refused(files, keys, problems))

    def _identify(self, files: Sequence[Path]) -> tuple[list[bytes | None], dict[Any, str]]:
        """Return each file's SHA-256, or None if unreadable; and the reasons, by path."""
        problems: dict[Any, str] = {}

        def identify(path: Path) -> bytes | PictureError:
            try:
                status = path.stat()
                stamp = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
                if stamp not in self._hashes:
                    self._hashes[stamp] = hashlib.sha256(read_bytes(path)).digest()
                return self._hashes[stamp]
            except OSError:
                return _problem(path)
            except PictureError as error:
                return error

        keys: list[bytes | None] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for path, result in zip(files, pool.map(identify, files), strict=True):
                keys.append(None if isinstance(result, PictureError) else result)
                if isinstance(result, PictureError):
                    problems[path] = str(result)
        return keys, problems

    def _decode(
        self, wanted: Mapping[bytes, Sequence[Encoder | Distance]], paths: Mapping[bytes, Path]
    ) -> Iterator[tuple[bytes, tuple[Image.Image, ...] | PictureError]]:
        """Yield each image, prepared for each of its encoders, in order; threads decode ahead."""

        def make(key: bytes) -> tuple[Image.Image, ...] | PictureError:
            try:
                content = read_bytes(paths[key])
                if hashlib.sha256(content).digest() != key:
                    return PictureError("changed while it was read")
                image = decode_picture(content)
            except PictureError as error:
                return error
            return tuple(
                e.prepare(image) if isinstance(e, Preparing | Distance) else image
                for e in wanted[key]
            )

        # Resized images are small. Of full-size images, hold only enough to keep all threads busy.
        users = {id(e): e for es in wanted.values() for e in es}.values()
        small = all(isinstance(e, Preparing | Distance) for e in users)
        window = 2 * BATCH if small else 2 * self.workers
        waiting: deque[tuple[bytes, Future[tuple[Image.Image, ...] | PictureError]]] = deque()
        todo = iter(wanted)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            for key in islice(todo, window):
                waiting.append((key, pool.submit(make, key)))
            while waiting:
                key, future = waiting.popleft()
                result = future.result()
                self.decoded += 1
                for following in islice(todo, 1):
                    waiting.append((following, pool.submit(make, following)))
                yield key, result
        finally:
            pool.shutdown(cancel_futures=True)

    def _cache_of(self, encoder: Encoder | Distance) -> EncoderCache:
        key = encoder.fingerprint
        if key not in self._caches:
            everything = fingerprint({"encoder": key, "picture": RULES})
            self._caches[key] = self.cache.of_encoder(encoder.name, everything)
        return self._caches[key]


class _Batcher:
    """Collects one encoder's images to batches, and saves its new vectors to the cache."""

    def __init__(self, store: FeatureStore, encoder: Encoder, rows: CachedVectors) -> None:
        self._store, self._encoder, self._rows = store, encoder, rows
        self._waiting: list[tuple[bytes, Image.Image]] = []
        self._pixels = 0
        self._new: CachedVectors = {}

    def add(self, key: bytes, image: Image.Image) -> int:
        """Add an image; return how many images were encoded by this call."""
        self._waiting.append((key, image))
        self._pixels += image.width * image.height
        full = len(self._waiting) == BATCH or self._pixels >= _BATCH_PIXELS
        return self.flush() if full else 0

    def flush(self) -> int:
        """Encode the waiting images; return their number."""
        keys, images = [key for key, _ in self._waiting], [image for _, image in self._waiting]
        self._waiting, self._pixels = [], 0
        if not images:
            return 0
        encoder = self._encoder
        if isinstance(encoder, Preparing):
            vectors = encoder.encode_prepared(images)
        else:
            vectors = encoder.encode_images(images)
        self._store.encoded[encoder.name] += len(images)
        new = dict(zip(keys, np.asarray(vectors, dtype=np.float32), strict=True))
        self._rows |= new
        self._new |= new
        if len(self._new) >= _ROWS_A_FILE:
            self.save()
        return len(images)

    def save(self) -> None:
        """Write the new vectors to the cache."""
        self._store._cache_of(self._encoder).write("images", self._new)
        self._new = {}


def _distinct(keys: Sequence[bytes | None], files: Sequence[Path]) -> dict[bytes, Path]:
    """Return one file for each distinct content, in order."""
    distinct: dict[bytes, Path] = {}
    for key, path in zip(keys, files, strict=True):
        if key is not None:
            distinct.setdefault(key, path)
    return distinct


def _stack(
    encoder: Encoder, rows: CachedVectors, keys: Sequence[bytes | None], kept: Sequence[int]
) -> UnitVectors:
    if not kept:
        return np.zeros((0, encoder.dim), dtype=np.float32)
    return np.stack([rows[key] for i in kept if (key := keys[i]) is not None])


def _refused(
    files: Sequence[Path], keys: Sequence[bytes | None], problems: Mapping[Any, str]
) -> dict[Path, str]:
    marks = [(path, path if key is None else key) for path, key in zip(files, keys, strict=True)]
    return {path: problems[mark] for path, mark in marks if mark in problems}


def _problem(path: Path) -> PictureError:
    try:
        read_bytes(path)
    except PictureError as error:
        return error
    return PictureError("cannot be read")
