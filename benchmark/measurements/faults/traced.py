"""Runs `dbbench` and traces each step and image: python traced.py TRACE run --suite mini ...

The trace is written immediately, so it shows how far a killed process came.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from dbbench.cli import main
from dbbench.generation.resume import Saves
from dbbench.running import images as image_files


def trace_into(path: Path) -> None:
    """Write a line "step PLACE NUMBER" or "image PLACE 1" immediately after each."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(kind: str, place: str, number: int) -> None:
        os.write(descriptor, f"{os.getpid()} {kind} {place} {number}\n".encode())

    due, write = Saves.due, image_files._write

    def traced_due(self: Saves, step: int) -> bool:
        note("step", _place(self.folder), step)
        return due(self, step)

    def traced_write(image: Any, file: str, folder: Path, journal: Path) -> None:
        write(image, file, folder, journal)
        note("image", f"{_place(folder)}/{file}", 1)

    Saves.due = traced_due  # type: ignore[method-assign]
    image_files._write = traced_write


def _place(folder: Path) -> str:
    """Return the folder of an attempt without the part that changes between attempts."""
    return "/".join([*folder.parts[-4:-1], folder.name.lstrip(".").split(".")[0]])


if __name__ == "__main__":
    trace_into(Path(sys.argv.pop(1)))
    main()
