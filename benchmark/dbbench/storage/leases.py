"""Leases: which process does which task in a shared output folder; no system locks are needed.

filelock's SoftFileLease is not used. Up to 4.2.12 it cannot take over a dead process's lease where
two names cannot be exchanged in one step (NFS, SMB, 9p, some FUSE). On no file system can it take
over a lease whose holder was killed between creating its file and writing into it.
tests/storage/test_leases.py shows both.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

FOLDER = ".leases"
_AFTER = ".after-"
_NEW = ".new"


@dataclass(frozen=True)
class Lease:
    """The right to do one task, and the file that proves it."""

    name: str
    path: Path
    token: str
    before: tuple[Path, ...] = ()
    """Files of earlier holders that died."""

    @property
    def successor(self) -> Path:
        """The file of the process that takes over; it can be created only once."""
        return self.path.with_name(f"{quote(self.name, safe='')}{_AFTER}{self.token}")

    @property
    def lost(self) -> bool:
        """Whether another process took over, because this one seemed to be dead."""
        return self.successor.exists()


@dataclass
class Leases:
    """The leases that this process holds in one folder. Use it with `with`, which releases them.

    A lease is a file that is created in one step, by a hard link. It contains a unique token, and a
    number that the holder increases every `beat` seconds. A holder counts as dead if its process on
    this machine has ended, or if its number did not change for `patience` seconds. Only the
    observer's own clock counts; clocks of different machines are never compared.

    To take over a dead holder's lease, a process creates the file that is named after its token.
    This file can be created only once. The holder creates it too before it releases the lease. So
    no lease is taken over twice, and none is taken over after its release.
    """

    out: Path
    beat: float = 5.0
    patience: float = 60.0
    _held: dict[str, Lease] = field(default_factory=dict, repr=False)
    _seen: dict[Path, tuple[bytes, float]] = field(default_factory=dict, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """The folder of the lease files."""
        return self.out / FOLDER

    def __enter__(self) -> Leases:
        for name in self.names():
            self._is_alive(self._chain(name)[-1:])  # Starts to watch it.
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            for lease in list(self._held.values()):
                self.release(lease)
            self._tidy()

    def take(self, name: str) -> Lease | None:
        """Return the lease, or None if another process, or this one, holds it already."""
        while name not in self._held:
            chain = self._chain(name)
            if self._is_alive(chain[-1:]):
                return None
            path = chain[-1].successor if chain else self.folder / quote(name, safe="")
            token = secrets.token_hex(16)
            if not self._make(path, token):
                continue  # Another process was faster.
            lease = Lease(name, path, token, tuple(each.path for each in chain))
            if [each.token for each in self._chain(name)][-1:] != [token]:
                path.unlink(missing_ok=True)  # It was released in the meantime.
                continue
            self._held[name] = lease
            self._start()
            return lease
        return None

    def release(self, lease: Lease) -> None:
        """Release a lease; do nothing if another process has taken it over."""
        self._held.pop(lease.name, None)
        end = Lease(lease.name, lease.successor, secrets.token_hex(16))
        if not self._make(end.path, end.token):
            return
        # Removing the first file frees the name; the later files have no meaning without it.
        for path in (*lease.before, lease.path, end.path):
            path.unlink(missing_ok=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[Lease | None]:
        """Hold the lease while open; yield None if it is not available."""
        lease = self.take(name)
        try:
            yield lease
        finally:
            if lease is not None:
                self.release(lease)

    @contextmanager
    def hold(self, name: str, waiting: Callable[[str], None]) -> Iterator[Lease]:
        """Wait for the lease and hold it while open; `waiting` is called with the holder's name."""
        while (lease := self.take(name)) is None:
            waiting(self.holder(name) or "another process")
            time.sleep(0.1)
        try:
            yield lease
        finally:
            self.release(lease)

    def holder(self, name: str) -> str | None:
        """Return the holder as "process 12 on host", None if the lease is free."""
        return running(self.out).get(name)

    def names(self) -> list[str]:
        """Return the names of all leases, including those of dead processes."""
        files = [path.name for path in self.folder.glob("*")]
        return [unquote(f) for f in sorted(files) if _AFTER not in f and not f.endswith(_NEW)]

    def _chain(self, name: str) -> list[Lease]:
        """Return the lease and its takeovers in order; the last one is valid."""
        chain: list[Lease] = []
        path = self.folder / quote(name, safe="")
        while (token := _token(path)) is not None:
            chain.append(Lease(name, path, token))
            path = chain[-1].successor
        return chain

    def _is_alive(self, last: list[Lease]) -> bool:
        if not last:
            return False
        path = last[0].path
        try:
            content = path.read_bytes()
        except OSError:
            return False
        before, since = self._seen.get(path, (None, 0.0))
        if content != before:
            self._seen[path] = (content, time.monotonic())
        elif time.monotonic() - since >= self.patience:
            return False
        return not _is_dead(_about(content))

    def _make(self, path: Path, token: str) -> bool:
        """Create a lease's file; return False if it existed already."""
        new = self.folder / f"{token}{_NEW}"
        content = json.dumps({"token": token} | _process()).encode() + _number(0)
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                new.write_bytes(content)
                try:
                    os.link(new, path)
                except (FileExistsError, FileNotFoundError):
                    raise
                except OSError:  # The file system has no hard links.
                    with path.open("xb", buffering=0) as stream:
                        stream.write(content)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:
                continue  # Another process has just removed the empty folder.
            finally:
                new.unlink(missing_ok=True)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_on, name="leases", daemon=True)
            self._thread.start()

    def _beat_on(self) -> None:
        number = 0
        while not self._closed.wait(self.beat):
            number += 1
            for lease in list(self._held.values()):
                with suppress(OSError), lease.path.open("r+b") as stream:
                    stream.seek(-len(_number(0)), os.SEEK_END)
                    stream.write(_number(number))

    def _tidy(self) -> None:
        """Remove the leases of dead processes, and the folder if it is empty."""
        files = list(self.folder.iterdir()) if self.folder.is_dir() else []
        for name in self.names():
            if (lease := self.take(name)) is not None:
                self.release(lease)
        valid = {each.path for name in self.names() for each in self._chain(name)}
        for path in files:  # Tokens are unique: a file without a valid lease never gets one.
            if path not in valid:
                path.unlink(missing_ok=True)
        self.folder.rmdir()


def running(out: Path, *, here: bool = False) -> dict[str, str]:
    """Return what is being made in a folder, and by which process; known dead ones are left out.

    With `here`, only processes that are known to run on this machine since it last started.
    """
    leases = Leases(out)
    found = {}
    for name in leases.names():
        chain = leases._chain(name)
        about = _about(_read(chain[-1].path)) if chain else {}
        if about and not _is_dead(about) and (not here or about.get("machine") == _machine()):
            found[name] = f"process {about.get('pid', '?')} on {about.get('host', '?')}"
    return found


def _token(path: Path) -> str | None:
    """Return the token in a lease's file, None if there is no such file."""
    try:
        status = path.stat()
        about = _about(path.read_bytes())
    except OSError:
        return None
    # A file that lost its content in a crash is identified by its inode and time.
    return str(about.get("token") or f"lost-{status.st_ino}-{status.st_mtime_ns}")


def _about(content: bytes) -> dict[str, Any]:
    try:
        about = json.loads(content.partition(b"\n")[0])
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _number(value: int) -> bytes:
    return b"\n%012d\n" % value


@cache
def _machine() -> str:
    """Return an id of this machine or container, until its next start; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process() -> dict[str, Any]:
    pid = os.getpid()
    host = socket.gethostname()
    return {"machine": _machine(), "host": host, "pid": pid, "started": _started(pid)}


def _started(pid: int) -> str:
    """Return when a process of this machine started, "" if it does not exist any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _is_dead(about: dict[str, Any]) -> bool:
    """Whether a process is known to have ended; never known for other machines."""
    here = bool(about.get("machine")) and about.get("machine") == _machine()
    return here and _started(int(about["pid"])) != about["started"]
