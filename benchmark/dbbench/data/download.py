"""Downloads the data set's photographs and verifies them, before any stage runs."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from dbbench.data.photographs import Photographs, photo_problem, photo_root
from dbbench.data.subject import Photo, Subject
from dbbench.errors import UserError

HUB = "google/dreambooth"
MAX_ARCHIVE = 2**30  # bytes; the whole data set has 107 MB
CHUNK = 2**18
TIMEOUT = 60.0  # seconds without an answer

FetchProgress = Callable[[str, int, int], None]
"""Called as progress(what, done, total); what is "photographs" or "bytes"; total 0 is unknown."""


@dataclass(frozen=True)
class DataReport:
    """Result of verifying a folder; `problems` names each missing or altered photograph."""

    root: Path
    expected: int
    problems: tuple[str, ...]
    """Such as "dog/02.jpg is missing"."""

    @property
    def complete(self) -> bool:
        """True where every photograph is the original, byte for byte."""
        return not self.problems

    @property
    def summary(self) -> str:
        """One line: the number of correct photographs, and the first problem with its remedy."""
        right = self.expected - len(self.problems)
        line = f"{right} of {self.expected} photographs in {self.root} are the originals"
        if self.problems:
            line += f"; {self.problems[0]}"
            if len(self.problems) > 1:
                line += f" (and {len(self.problems) - 1} more problems)"
            line += f"; restore the originals with: dbbench data fetch --out {self.root}"
        return line


def verify_data(path: Path, subjects: Iterable[Subject] | None = None) -> DataReport:
    """Compare a copy of the photographs with the originals, byte for byte.

    Raises UserError if `path` is not the data set.
    """
    wanted = Photographs().subjects if subjects is None else tuple(subjects)
    root = photo_root(path, wanted)
    problems = [
        f"{subject.name}/{photo.file} {problem}"
        for subject, photo in _pairs(wanted)
        if (problem := photo_problem(root / subject.name / photo.file, photo)) is not None
    ]
    return DataReport(root=root, expected=len(_pairs(wanted)), problems=tuple(problems))


def fetch_data(
    out: Path,
    *,
    mirror: str | None = None,
    hub: str = HUB,
    subjects: Iterable[Subject] | None = None,
    progress: FetchProgress = lambda what, done, total: None,
) -> DataReport:
    """Download the photographs that are missing or altered in `out`; others are not touched.

    The source is the hub (`hub` is a data set's id, or a local copy of one), or `mirror`: a zip
    file, the address of one (such as GitHub's archive of google/dreambooth), a folder, or an
    address with the files <subject>/<file> below it. A photograph is identified by its SHA-256
    only, so that names in an archive do not decide where a file is written. Raises UserError
    without a network or disk space, or if not every photograph was found; a second call continues.
    """
    wanted = Photographs().subjects if subjects is None else tuple(subjects)
    root = out
    with suppress(UserError):  # Else `out` is new, or holds no photographs yet.
        root = photo_root(out, wanted)
    store = _Store(root, wanted, progress)
    if store.lacking:
        store.make_room()
        for content in _contents(mirror, hub, store):
            store.offer(content)
    report = verify_data(store.root, wanted)
    if not report.complete:
        source = mirror or hub
        raise UserError(
            f"{source} does not have the original of every photograph: {report.problems[0]}"
            f" ({len(report.problems)} in all); use another source: --mirror ZIP-OR-ADDRESS"
        )
    shutil.rmtree(store.scratch, ignore_errors=True)
    return report


class _Store:
    """The folder to fill; accepts only the contents of missing photographs."""

    def __init__(self, root: Path, subjects: tuple[Subject, ...], progress: FetchProgress) -> None:
        self.root = root
        self.scratch = root / ".fetch"
        self.progress = progress
        self.total = len(_pairs(subjects))
        self.lacking = {
            photo.sha256: (subject, photo)
            for subject, photo in _pairs(subjects)
            if photo_problem(root / subject.name / photo.file, photo) is not None
        }

    @property
    def sizes(self) -> frozenset[int]:
        """The sizes in bytes of the photographs still lacking."""
        return frozenset(photo.size for _, photo in self.lacking.values())

    def make_room(self) -> None:
        """Create the folder; raises UserError where it cannot be written or the disk is full."""
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {self.root}: {error.strerror}; choose another folder with --out"
            ) from error
        # Twice: the archive, or the cache of the hub, temporarily exists beside the photographs.
        needed = 2 * sum(photo.size for _, photo in self.lacking.values())
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise UserError(
                f"{self.root} needs {needed / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB"
                " left; free disk space or choose another folder with --out"
            )

    def offer(self, content: bytes) -> None:
        """Save the content if it is a missing photograph; ignore it otherwise."""
        found = self.lacking.pop(hashlib.sha256(content).hexdigest(), None)
        if found is None:
            return
        subject, photo = found
        path = self.root / subject.name / photo.file
        path.parent.mkdir(exist_ok=True)
        partial = self.scratch / f"{subject.name}-{photo.file}"
        partial.write_bytes(content)
        os.replace(partial, path)
        self.progress("photographs", self.total - len(self.lacking), self.total)


def _contents(mirror: str | None, hub: str, store: _Store) -> Iterator[bytes]:
    """Choose the source; each one yields the contents of files that may be photographs."""
    if mirror is None:
        return _from_hub(hub, store)
    address = urllib.parse.urlsplit(mirror)
    if address.scheme in ("http", "https"):
        if address.path.endswith(".zip"):
            return _from_remote_zip(mirror, store)
        return _from_addresses(mirror, store)
    path = Path(mirror)
    if path.is_dir():
        return _from_folder(path, store)
    if path.is_file():
        return _from_zip(path, store)
    raise UserError(f'the mirror "{mirror}" is not a zip file, a folder or an http(s) address')


def _from_hub(hub: str, store: _Store) -> Iterator[bytes]:
    import datasets

    datasets.disable_progress_bars()
    cache = store.scratch / "hub"
    for name in sorted({subject.name for subject, _ in store.lacking.values()}):
        try:
            rows = datasets.load_dataset(hub, name, split="train", cache_dir=str(cache))
        except Exception as error:  # the hub's client raises a dozen kinds, of several libraries
            raise UserError(
                f'cannot get "{name}" of {hub} from the hub ({_first_line(error)}); without a'
                " network, download the zip of github.com/google/dreambooth elsewhere, then run:"
                " dbbench data fetch --mirror dreambooth-main.zip"
            ) from error
        # Not decoded: an image that is decoded and encoded again has other bytes.
        for row in rows.cast_column("image", datasets.Image(decode=False)):
            image = row["image"]
            yield image["bytes"] or Path(image["path"]).read_bytes()


def _from_folder(folder: Path, store: _Store) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size in store.sizes:
            yield path.read_bytes()


def _from_zip(path: Path, store: _Store) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                # Read only files of a known size, so that a zip bomb is never unpacked.
                if member.file_size in store.sizes:
                    with archive.open(member) as stream:
                        yield stream.read(member.file_size)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise UserError(f"{path} is not a complete zip ({error}); download it again") from error


def _from_remote_zip(address: str, store: _Store) -> Iterator[bytes]:
    partial = store.scratch / "archive.zip.part"
    _download(address, partial, store.progress)
    try:
        yield from _from_zip(partial, store)
    finally:
        partial.unlink()


def _download(address: str, partial: Path, progress: FetchProgress) -> None:
    """Download to `partial`; continue an interrupted download if the server allows it."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            with partial.open("ab" if resumed else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    progress("bytes", have, total)
                    if have > MAX_ARCHIVE:
                        raise UserError(
                            f"{address} is larger than {MAX_ARCHIVE:,} bytes: not the data set"
                        )
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            error.close()
            return  # nothing is left to fetch
        raise _unreachable(address, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(address, error) from error
    if total and have < total:
        raise UserError(
            f"{address} was interrupted after {have:,} of {total:,} bytes; repeat the command"
        )


def _from_addresses(base: str, store: _Store) -> Iterator[bytes]:
    for subject, photo in list(store.lacking.values()):
        address = f"{base.rstrip('/')}/{subject.name}/{photo.file}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                yield answer.read(photo.size + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> UserError:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection open
    return UserError(
        f"cannot get {address} ({_first_line(error)}); check the address and the network and run"
        " the command again, or use a zip from another machine: --mirror dreambooth-main.zip"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _pairs(subjects: Iterable[Subject]) -> list[tuple[Subject, Photo]]:
    return [(subject, photo) for subject in subjects for photo in subject.photos]
