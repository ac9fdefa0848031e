"""Artifact: a directory that is either whole or not there; every stage reads and writes these."""

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

from dbbench.errors import UserError
from dbbench.files import contained, fingerprint, hash_file, write_text

MANIFEST = "manifest.json"
REMEDY = "the dbbench run that made it makes it again, once dbbench verify has marked it"
State = Literal["done", "missing", "stale", "damaged"]


class Damaged(UserError):
    """An artifact is not, or no longer, what its manifest says."""

    def __init__(self, artifact: Artifact, problem: str) -> None:
        super().__init__(problem)
        self.args = (artifact, problem)  # Both, so that it can be sent to another process.
        self.artifact, self.problem = artifact, " ".join(problem.split())

    def __str__(self) -> str:
        return f"{self.artifact.path}: {self.problem}; {REMEDY}"


@dataclass(frozen=True)
class Artifact:
    """What one stage leaves behind: `path` holds it, `inputs` are all that its content depends on.

    The fingerprint of the inputs decides whether what lies at `path` is this artifact. Everything
    is written beside it under a hidden name and renamed; the manifest comes last and lists each
    file with its size and SHA-256.
    """

    path: Path
    inputs: Mapping[str, Any] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the inputs."""
        return fingerprint(self.inputs)

    @property
    def complete(self) -> bool:
        """Whether it is there, whole and made from these inputs."""
        return self.state == "done"

    @property
    def state(self) -> State:
        """Compare fingerprint, file names and sizes; hashes are read by `verify`."""
        return self.inspect(hashes=False)[0]

    def verify(self) -> State:
        """Like `state`, but every byte is read and hashed."""
        return self.inspect(hashes=True)[0]

    def inspect(self, *, hashes: bool) -> tuple[State, str]:
        """Return the state, and what is wrong with it in a few words ("" where nothing is)."""
        if not self.path.is_dir():
            return "missing", ""
        state, problem = inspect(self.path / MANIFEST, self.fingerprint, hashes=hashes)
        return ("damaged", "it has no manifest") if state == "missing" else (state, problem)

    def examine(self) -> tuple[State, str]:
        """As `inspect`, with every byte read where it is at home."""
        return self.inspect(hashes=True)

    def require(self) -> None:
        """Raise Damaged unless every byte is what the manifest says; stages call it to read on."""
        state, problem = self.inspect(hashes=True)
        if state != "done":
            raise Damaged(self, problem or f"it is {state}")

    def read(self, name: str) -> bytes:
        """Return the bytes of one file. Raises Damaged where they are not those once written."""
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
        """Take away the manifest, so that the next run makes it again; the files stay."""
        (self.path / MANIFEST).unlink(missing_ok=True)

    @contextmanager
    def create(self, *, resume: bool = False) -> Iterator[Path]:
        """Give a folder to write into; on leaving without an error it becomes the artifact.

        With `resume`, what an interrupted attempt at the same fingerprint wrote is still in the
        folder, and stays there if this attempt fails too. Files whose name starts with "." are
        not part of the artifact and are removed at the end.

        Each attempt has a folder of its own name. A process that stood still for so long that
        another took its work over finds its folder gone, or another of that name where files were
        written since. It can neither mix its files with the other's nor replace what the other
        made, and raises FileNotFoundError.
        """
        prefix = f".{self.path.name}.{self.fingerprint[:16]}."
        partial = self.path.with_name(f"{prefix}{secrets.token_hex(4)}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._clear_leftovers(partial, prefix if resume else None)
        partial.mkdir(exist_ok=True)
        own = os.open(partial, os.O_RDONLY)  # While it is open, no other has its number.
        try:
            yield partial
            self._write_manifest(partial)
            if not os.path.samestat(os.fstat(own), partial.stat()):
                raise FileNotFoundError(ENOENT, "another took this work over", str(partial))
            self._replace(partial)
        except BaseException:
            if not resume:
                shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):
                partial.rmdir()  # Where there is nothing in it to go on from.
            raise
        finally:
            os.close(own)

    def fetch(self) -> None:
        """Make sure that what is complete lies at `path`, which here it does already."""

    def fetch_file(self, name: str) -> None:
        """Make sure that one file of it lies here, if it is complete at all."""

    def remove(self) -> None:
        """Remove the artifact and anything an interrupted attempt left of it."""
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
            os.rename(self.path, old)  # A folder that is not empty cannot be renamed over.
        try:
            os.rename(partial, self.path)
        except OSError:
            with suppress(OSError):
                os.rename(old, self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _clear_leftovers(self, partial: Path, adopted: str | None) -> None:
        """Remove what interrupted attempts left; one whose name starts so becomes `partial`."""
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
    """Return whether the files that a manifest lists are there, whole and of that fingerprint.

    The second is what is wrong, in a few words.
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
        return "damaged", f"{manifest_path.name} is no manifest"
    return "done", ""


def write_manifest(manifest_path: Path, inputs: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Write what the files beside a manifest depend on, and their sizes and hashes."""
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
