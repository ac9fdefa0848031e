"""Output folders behind an address (s3://, gs://, ...): the same artifacts, the same manifests.

Stages work in a local folder, the mirror. An artifact is fetched whole before it is read, and sent
whole once it is made, with its manifest last. So an artifact is complete if its manifest is there
and each file that it lists has the listed size. Fetched files are verified by their hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from dbbench.errors import UserError
from dbbench.files import contained, hash_file
from dbbench.storage.artifact import MANIFEST, Artifact, Damaged, State
from dbbench.storage.artifact import inspect as inspect_files
from dbbench.storage.events import EVENTS
from dbbench.storage.leases import running

OWN_FILES = (
    "suite.json",
    "events/*",
    "logs/*",
    "tracking/**/*",
    "leaderboard*",
    "report/**/*",
    "scores.*",
)
"""The files of an output folder that are not artifacts, in the order in which they are sent."""


def is_address(out: str) -> bool:
    """Return whether an output folder is named by an address rather than by a path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", out) is not None


def scratch() -> Path:
    """Return the local folder of mirrors: $DBBENCH_SCRATCH, or one in the temporary folder."""
    chosen = os.environ.get("DBBENCH_SCRATCH")
    return Path(chosen).expanduser() if chosen else Path(tempfile.gettempdir()) / "dbbench-scratch"


def open_folder(out: str) -> tuple[Path, Remote | None]:
    """Return an output folder; of an address it is the mirror, with what is there beside it."""
    if not is_address(out):
        return Path(out).expanduser(), None
    remote = Remote(out.rstrip("/"))
    remote.open()
    return remote.mirror, remote


class Altered(Exception):
    """A remote artifact does not match its manifest."""


@dataclass(frozen=True)
class Remote:
    """A folder behind an address that fsspec understands."""

    url: str

    @property
    def mirror(self) -> Path:
        """The local folder that mirrors it."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.url).strip("-")[-40:]
        return scratch() / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def state(self, key: str, expected: str) -> State:
        """Return the state of the artifact below `key`, by fingerprint, names and sizes."""
        manifest = self.manifest(key)
        if manifest is None:
            return "missing"
        try:
            if str(manifest["fingerprint"]) != expected:
                return "stale"
            sizes = self._sizes(key)
            listed = {str(entry["name"]): int(entry["size"]) for entry in manifest["files"]}
        except (KeyError, TypeError, ValueError):
            return "damaged"
        whole = all(sizes.get(name) == size for name, size in listed.items())
        return "done" if whole else "damaged"

    def fetch(self, key: str, path: Path, only: str | None = None) -> None:
        """Download a whole artifact, or `only` one file of it without the manifest.

        Raises Altered if it does not match its manifest.
        """
        manifest = self.manifest(key)
        if manifest is None:
            raise Altered(f"{self.url}/{key} has no manifest")
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        try:
            with self._errors():
                for entry in manifest["files"]:
                    if only not in {None, entry["name"]}:
                        continue
                    file = contained(partial, str(entry["name"]))
                    file.parent.mkdir(parents=True, exist_ok=True)
                    self._fs.get_file(self._full(f"{key}/{entry['name']}"), str(file))
                    if hash_file(file) != entry["sha256"]:
                        raise Altered(f"{self.url}/{key}/{entry['name']} has changed")
                if only is None:
                    self._fs.get_file(self._full(f"{key}/{MANIFEST}"), str(partial / MANIFEST))
            shutil.rmtree(path, ignore_errors=True)
            try:
                os.rename(partial, path)
            except OSError:
                if not path.is_dir():  # Else another local process was faster.
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def altered(self, key: str) -> str:
        """Read and hash every remote file; return which one has changed, "" if none has."""
        for entry in (self.manifest(key) or {}).get("files", []):
            with self._errors(), self._fs.open(self._full(f"{key}/{entry['name']}"), "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return f"{entry['name']} has changed since it was written"
        return ""

    def send(self, key: str, path: Path) -> None:
        """Upload a whole artifact; an earlier one in its place is removed first."""
        with self._errors():
            self.remove(key)
            for file in sorted(p for p in path.rglob("*") if p.is_file()):
                if file != path / MANIFEST:
                    self._put(file, f"{key}/{file.relative_to(path).as_posix()}")
            self._put(path / MANIFEST, f"{key}/{MANIFEST}")

    def discard(self, key: str) -> None:
        """Remove an artifact's manifest, so that it counts as missing."""
        with self._errors():
            manifest = self._full(f"{key}/{MANIFEST}")
            if self._fs.exists(manifest):
                self._fs.rm_file(manifest)

    def remove(self, key: str) -> None:
        """Delete an artifact, its manifest first."""
        with self._errors():
            if not self._fs.exists(self._full(key)):
                return
            self.discard(key)
            if self._fs.exists(self._full(key)):  # Object stores have no empty folders.
                self._fs.rm(self._full(key), recursive=True)

    def open(self) -> None:
        """Download all that is not part of an artifact to the mirror: records, tables, the report.

        Skipped while another local command works in the mirror: it has newer files.
        """
        self.mirror.mkdir(parents=True, exist_ok=True)
        if running(self.mirror, here=True):
            return
        with self._errors():
            for local in self.mirror.glob("*"):
                if local.is_file():
                    local.unlink()
            for name in ("report", "logs"):
                shutil.rmtree(self.mirror / name, ignore_errors=True)
            self._fs.invalidate_cache()
            if not self._fs.exists(self._full("")):
                shutil.rmtree(self.mirror / EVENTS, ignore_errors=True)
                return
            for entry in self._fs.ls(self._full(""), detail=True):
                name = str(entry["name"]).rstrip("/").rpartition("/")[2]
                if entry["type"] == "file" and name:
                    self._fs.get_file(entry["name"], str(self.mirror / name))
            for name in ("report", "logs"):
                if self._fs.exists(self._full(name)):
                    self._fs.get(self._full(name), str(self.mirror / name), recursive=True)
            for there in self._fs.find(self._full(EVENTS)):
                here = self.mirror / EVENTS / there.rpartition("/")[2]
                if not here.is_file():  # Else a local command wrote it, and it is current.
                    here.parent.mkdir(exist_ok=True)
                    self._fs.get_file(there, str(here))

    def send_files(self, patterns: Iterable[str] = OWN_FILES) -> None:
        """Upload the mirror's matching files, pattern by pattern; remove logs deleted here."""
        with self._errors():
            for log in self._fs.find(self._full("logs")):
                if not (self.mirror / "logs" / log.rpartition("/")[2]).is_file():
                    self._fs.rm_file(log)
            for pattern in patterns:
                for file in sorted(self.mirror.glob(pattern)):
                    if file.is_file() and not file.name.startswith("."):
                        self._put(file, file.relative_to(self.mirror).as_posix())

    @property
    def _fs(self) -> Any:
        return _connect(self.url)[0]

    def _full(self, key: str) -> str:
        root = str(_connect(self.url)[1]).rstrip("/")
        return f"{root}/{key}".rstrip("/")

    def _put(self, file: Path, key: str) -> None:
        full = self._full(key)
        self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(file), full)

    def manifest(self, key: str) -> Mapping[str, Any] | None:
        """Return the manifest of the artifact below `key`, None if there is none."""
        with self._errors():
            try:
                text = self._fs.cat_file(self._full(f"{key}/{MANIFEST}"))
            except FileNotFoundError:
                return None
        try:
            document = json.loads(text)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def _sizes(self, key: str) -> dict[str, int]:
        """Return the current size of every file below a key."""
        with self._errors():
            self._fs.invalidate_cache()
            root = self._full(key)
            found = self._fs.find(root, detail=True)
        start = len(self._fs._strip_protocol(root).rstrip("/")) + 1
        return {name[start:]: int(entry["size"]) for name, entry in found.items()}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the remote store into a UserError."""
        try:
            yield
        except (UserError, Altered, FileNotFoundError):
            raise
        except Exception as error:  # Every driver has its own error types.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.url} cannot be used ({reason}); check address and credentials and rerun the"
                " same command; finished work there is kept"
            ) from error


@dataclass(frozen=True)
class RemoteArtifact(Artifact):
    """An artifact that is stored remotely; `path` is its local copy, once fetched or made."""

    remote: Remote = field(default_factory=lambda: Remote(""))
    key: str = ""
    """Its path below the remote's address."""

    @override
    def inspect(self, *, hashes: bool) -> tuple[State, str]:
        """Return its remote state by names and sizes; files are hashed when they are fetched."""
        state = self.remote.state(self.key, self.fingerprint)
        return state, "some of its files are missing" if state == "damaged" else ""

    @override
    def examine(self) -> tuple[State, str]:
        """Like `inspect`, but every remote byte is read and hashed."""
        state, problem = self.inspect(hashes=False)
        if state == "done" and (problem := self.remote.altered(self.key)):
            return "damaged", problem
        return state, problem

    @override
    def require(self) -> None:
        """Fetch it. Raises Damaged unless every byte matches the manifest."""
        self.fetch()
        Artifact(self.path, self.inputs).require()

    @override
    def read(self, name: str) -> bytes:
        """Fetch it and return the bytes of one file. Raises Damaged as `require` does."""
        self.fetch()
        return super().read(name)

    @override
    def discard(self) -> None:
        super().discard()
        self.remote.discard(self.key)

    @override
    @contextmanager
    def create(self, *, resume: bool = False) -> Iterator[Path]:
        """Like `Artifact.create`, and upload it at the end."""
        with super().create(resume=resume) as folder:
            yield folder
        self.remote.send(self.key, self.path)

    @override
    def remove(self) -> None:
        super().remove()
        self.remote.remove(self.key)

    @override
    def fetch_file(self, name: str) -> None:
        """Download one file of it, if it is complete; the other files may be large."""
        if not (self.path / name).is_file() and self.complete:
            self._fetch(name)

    @override
    def fetch(self) -> None:
        """Download it unless it is here. Raises Damaged if it does not match its manifest."""
        if inspect_files(self.path / MANIFEST, self.fingerprint, hashes=False)[0] == "done":
            return
        self._fetch()

    def _fetch(self, only: str | None = None) -> None:
        try:
            self.remote.fetch(self.key, self.path, only)
        except (Altered, FileNotFoundError) as error:
            raise Damaged(self, str(error)) from None


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system and the path in it; fsspec caches connections."""
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot use {url}: {error}") from None
    return system, path
