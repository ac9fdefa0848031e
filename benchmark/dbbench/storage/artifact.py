"""Artifact: a folder that is either complete or absent; every stage reads and writes artifacts."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from errno import ENOENT
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from dbbench.errors import UserError
from dbbench.files import contained, fingerprint, hash_file, write_text

MANIFEST = "manifest.json"
REMEDY = "to repair it, call dbbench verify, then rerun the dbbench run that made it"
State = Literal["done", "missing", "stale", "damaged"]


class Damaged(UserError):
    """An artifact does not match its manifest, or has none."""

    def __init__(self, artifact: Artifact, problem: str) -> None:
        super().__init__(problem)
        self.args = (artifact, problem)  # Both, so that it can be pickled.
        self.artifact, self.problem = artifact, " ".join(problem.split())

    @override
    def __str__(self) -> str:
        return f"{self.artifact.path}: {self.problem}; {REMEDY}"


@dataclass(frozen=True)
class Artifact:
    """The output of one stage at `path`; `inputs` are all that its content depends on.

    The fingerprint of the inputs decides whether the folder at `path` is this artifact. A stage
    writes into a hidden folder beside it, which is then renamed. The manifest is written last and
    lists each file with its size and SHA-256.
    """

    path: Path
    inputs: Mapping[str, Any] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the inputs."""
        return fingerprint(self.inputs)

    @property
    def complete(self) -> bool:
        """Whether it exists, is complete, and was made from these inputs."""
        return self.state == "done"

    @property
    def state(self) -> State:
        """The state by fingerprint, file names and sizes; `verify` also compares hashes."""
        return self.inspect(hashes=False)[0]

    def verify(self) -> State:
        """Like `state`, but every byte is read and hashed."""
        return self.inspect(hashes=True)[0]

    def inspect(self, *, hashes: bool) -> tuple[State, str]:
        """Return the state, and the problem in a few words ("" if there is none)."""
        if not self.path.is_dir():
            return "missing", ""
        state, problem = inspect(self.path / MANIFEST, self.fingerprint, hashes=hashes)
        return ("damaged", "it has no manifest") if state == "missing" else (state, problem)

    def examine(self) -> tuple[State, str]:
        """Like `inspect`, but read and hash every byte where the artifact is stored."""
        return self.inspect(hashes=True)

    def require(self) -> None:
        """Raise Damaged unless every byte matches the manifest; stages call it before reading."""
        state, problem = self.inspect(hashes=True)
        if state != "done":
            raise Damaged(self, problem or f"it is {state}")

    def read(self, name: str) -> bytes:
        """Return the bytes of one file. Raises Damaged if they do not match the manifest."""
        try:
            files = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"]
            (expected,) = (entry["sha256"] for entry in files if entry["name"] == name)
            content = (self.path / name).read_bytes()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(self, f"{name} cannot be read ({error})") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise Damaged(self, f"{name} has changed since it was written")
        return content

    def discard(self) -> None:
        """Remove the manifest, so that the next run makes the artifact again; keep the files."""
        (self.path / MANIFEST).unlink(missing_ok=True)

    @contextmanager
    def create(self, *, resume: bool = False) -> Iterator[Path]:
        """Yield a folder to write into; it becomes the artifact if the block raises no error.

        With `resume`, the folder contains the files of an interrupted attempt at the same
        fingerprint, and keeps its files if this attempt fails too. Files whose name starts with "."
        are not part of the artifact; they are removed at the end.

        Each attempt has its own folder name. If a process was paused for so long that another one
        took over its work, its folder is gone or has been replaced. It then raises
        FileNotFoundError, and neither mixes its files with the other's nor replaces them.
        """
        prefix = f".{self.path.name}.{self.fingerprint[:16]}."
        partial = self.path.with_name(f"{prefix}{secrets.token_hex(4)}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._clear_leftovers(partial, prefix if resume else None)
        partial.mkdir(exist_ok=True)
        own = os.open(partial, os.O_RDONLY)  # While it is open, its inode number is not reused.
        try:
            yield partial
            self._write_manifest(partial)
            if not os.path.samestat(os.fstat(own), partial.stat()):
                raise FileNotFoundError(ENOENT, "another process took over this work", str(partial))
            self._replace(partial)
        except BaseException:
            if not resume:
                shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):
                partial.rmdir()  # Only if it is empty: nothing to resume from.
            raise
        finally:
            os.close(own)

    def fetch(self) -> None:
        """Make sure that a complete artifact is at `path`; a local one always is."""

    def fetch_file(self, name: str) -> None:
        """Make sure that one file of a complete artifact is at `path`."""

    def remove(self) -> None:
        """Remove the artifact and all files of interrupted attempts."""
        self._clear_leftovers(self.path, None)
        shutil.rmtree(self.path, ignore_errors=True)

    def _write_manifest(self, folder: Path) -> None:
        for hidden in folder.rglob(".*"):
            hidden.unlink()
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p != folder / MANIFEST]
        write_manifest(folder / MANIFEST, self.inputs, files)

    def _replace(self, partial: Path) -> None:
        old = self.path.with_name(f".{self.path.name}.old")
        if self.path.exists():
            os.rename(self.path, old)  # Renaming over a folder that is not empty fails.
        try:
            os.rename(partial, self.path)
        except OSError:
            with suppress(OSError):
                os.rename(old, self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _clear_leftovers(self, partial: Path, adopted: str | None) -> None:
        """Remove interrupted attempts; one whose name starts with `adopted` becomes `partial`."""
        if not self.path.parent.is_dir():
            return
        for leftover in sorted(self.path.parent.glob(f".{self.path.name}.*")):
            if leftover.suffix not in {".partial", ".old"}:
                continue
            if adopted and leftover.name.startswith(adopted) and not partial.exists():
                os.rename(leftover, partial)
            else:
                shutil.rmtree(leftover)


def inspect(manifest_path: Path, expected: str, *, hashes: bool) -> tuple[State, str]:
    """Return the state of the files that a manifest lists, and the problem in a few words.

    `expected` is the fingerprint; with `hashes` every byte is read.
    """
    if not manifest_path.is_file():
        return "missing", ""
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if str(manifest["fingerprint"]) != expected:
            return "stale", "it was made from other inputs"
        for entry in list(manifest["files"]):
            path = contained(manifest_path.parent, str(entry["name"]))
            size = path.stat().st_size
            if size != int(entry["size"]):
                return "damaged", f"{entry['name']} has {size} bytes of {entry['size']}"
            if hashes and hash_file(path) != entry["sha256"]:
                return "damaged", f"{entry['name']} has changed since it was written"
    except OSError as error:
        return "damaged", f"{Path(error.filename or '').name}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return "damaged", f"{manifest_path.name} is not a valid manifest"
    return "done", ""


def write_manifest(manifest_path: Path, inputs: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Write the manifest: the inputs of the files beside it, and their sizes and hashes."""
    manifest = {
        "fingerprint": fingerprint(inputs),
        "inputs": inputs,
        "files": [
            {
                "name": path.relative_to(manifest_path.parent).as_posix(),
                "size": path.stat().st_size,
                "sha256": hash_file(path),
            }
            for path in files
        ],
    }
    write_text(manifest_path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
