"""Lease: who makes what in a folder that several processes share; needs no locks of the system.

filelock's SoftFileLease is not used: up to 4.2.12 it takes no dead holder's lease over where two
names cannot be exchanged in one step (NFS, SMB, 9p, FUSE in part), and on no disk one whose holder
was killed between making its file and writing into it. tests/test_lease.py shows both.
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
    """The right to make one thing, and the file that says so."""

    name: str
    path: Path
    token: str
    before: tuple[Path, ...] = ()
    """Files of holders that died with it."""

    @property
    def successor(self) -> Path:
        """The file of whoever takes over; it can be made only once."""
        return self.path.with_name(f"{quote(self.name, safe='')}{_AFTER}{self.token}")

    @property
    def lost(self) -> bool:
        """Whether another took over, because this process seemed to be dead."""
        return self.successor.exists()


@dataclass
class Leases:
    """What this process holds of one folder.

    A lease is a file that comes into being whole, by a hard link, or not at all. It holds a token
    that no other ever has, and a number that its holder raises every `beat` seconds. A holder is
    dead where its process on this machine is no more, or its number stood still for `patience`
    seconds of the observer's own clock: clocks of several machines are never compared. Its lease
    goes to the one who makes the file that is named for its token. That exists at most once, and
    the holder makes it too before giving a lease back; so no lease is taken over twice, and none
    that was given back. Open it with `with`; all that is held is given back at the end.
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
        """Where the files are."""
        return self.out / FOLDER

    def __enter__(self) -> Leases:
        for name in self.names():
            self._is_alive(self._chain(name)[-1:])  # From now on it is watched.
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
        """Return the lease, None where another process holds it, or this one already."""
        while name not in self._held:
            chain = self._chain(name)
            if self._is_alive(chain[-1:]):
                return None
            path = chain[-1].successor if chain else self.folder / quote(name, safe="")
            token = secrets.token_hex(16)
            if not self._make(path, token):
                continue  # Another was faster.
            lease = Lease(name, path, token, tuple(each.path for each in chain))
            if [each.token for each in self._chain(name)][-1:] != [token]:
                path.unlink(missing_ok=True)  # It had been given back in the meantime.
                continue
            self._held[name] = lease
            self._start()
            return lease
        return None

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing is touched where another has taken it over."""
        self._held.pop(lease.name, None)
        end = Lease(lease.name, lease.successor, secrets.token_hex(16))
        if not self._make(end.path, end.token):
            return
        # The first file frees the name; what follows it means nothing without it.
        for path in (*lease.before, lease.path, end.path):
            path.unlink(missing_ok=True)

    @contextmanager
    def trying(self, name: str) -> Iterator[Lease | None]:
        """Hold the lease while open, None where it is not to be had."""
        lease = self.take(name)
        try:
            yield lease
        finally:
            if lease is not None:
                self.release(lease)

    @contextmanager
    def hold(self, name: str, waiting: Callable[[str], None]) -> Iterator[Lease]:
        """Hold the lease while open; until it is free, `waiting` hears who has it."""
        while (lease := self.take(name)) is None:
            waiting(self.holder(name) or "another process")
            time.sleep(0.1)
        try:
            yield lease
        finally:
            self.release(lease)

    def holder(self, name: str) -> str | None:
        """Return who holds it, "process 12 on host", None where nobody does."""
        return running(self.out).get(name)

    def names(self) -> list[str]:
        """Return the names of all leases, those of the dead too."""
        files = [path.name for path in self.folder.glob("*")]
        return [unquote(f) for f in sorted(files) if _AFTER not in f and not f.endswith(_NEW)]

    def _chain(self, name: str) -> list[Lease]:
        """Return the lease and those that took it over in turn; the last one counts."""
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
        """Make a lease's file; return whether it was not there before."""
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
                except OSError:  # A folder without hard links.
                    with path.open("xb", buffering=0) as stream:
                        stream.write(content)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:
                continue  # The folder was empty for a moment, and its last user removed it.
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
        """Remove what the dead have left, and the folder where nothing is in it."""
        files = list(self.folder.iterdir()) if self.folder.is_dir() else []
        for name in self.names():
            if (lease := self.take(name)) is not None:
                self.release(lease)
        valid = {each.path for name in self.names() for each in self._chain(name)}
        for path in files:  # Tokens never come back: what led nowhere then leads nowhere now.
            if path not in valid:
                path.unlink(missing_ok=True)
        self.folder.rmdir()


def running(out: Path, *, here: bool = False) -> dict[str, str]:
    """Return what is being made in a folder, and by whom; the known dead are left out.

    With `here`, only what is surely of this machine and not from before it last started.
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
    """Return the token in a lease's file, None where there is no such file."""
    try:
        status = path.stat()
        about = _about(path.read_bytes())
    except OSError:
        return None
    # A file that lost its content in a crash is known by its place on the disk.
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
    """Name this machine, or this container, until its next start; "" where that is unknown."""
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
    """Return when a process of this machine started, "" where there is none (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]


def _is_dead(about: dict[str, Any]) -> bool:
    """Whether a process is known to be no more; of another machine that is never known."""
    here = bool(about.get("machine")) and about.get("machine") == _machine()
    return here and _started(int(about["pid"])) != about["started"]
