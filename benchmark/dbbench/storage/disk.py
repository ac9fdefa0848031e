"""Output folders on a disk: where they are, their sizes, free space, and errors in one line."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbbench.errors import UserError

RESULTS = Path("results")
"""Where output folders are unless a call names another place."""
RECORD = "suite.json"
"""The file that each output folder contains: its suite and its runs (`storage/record.py`)."""
SPARE_BYTES = 64 * 2**20
"""Kept free on the disk beyond what a run needs."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ROOM_WORDS = ("No space left on device", "File too large", "Disk quota exceeded")
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (problem := storage_problem(error, out)) is not None:
            raise problem from error
        raise


def storage_problem(error: BaseException | None, out: Path) -> UserError | None:
    """Return the one-line message if an error comes from the disk, else None."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and pyarrow raise their own error types with the system's message.
        if number in _NO_ROOM or any(words in str(error) for words in _NO_ROOM_WORDS):
            return UserError(
                f"no space left on the disk of {out}; free some space and rerun the same command;"
                " finished work is kept"
            )
        if number in _NO_ACCESS:
            assert isinstance(error, OSError)
            place = error.filename or out
            return UserError(
                f"cannot write {place} ({error.strerror}); make it writable or choose another --out"
            )
        error = error.__cause__ or error.__context__
    return None


def folder_size(folder: Path) -> int:
    """Return the total size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk of a path; the path need not exist yet."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def latest() -> Path:
    """Return the output folder below results/ that was written to last. Raises UserError."""
    records = sorted(RESULTS.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"no results in {RESULTS}/; name a folder, or make some with: dbbench run")
    return records[-1].parent
