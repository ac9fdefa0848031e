"""Subjects and the sources of their photographs; all later stages read them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from dbbench.text_files import read_toml

SubjectKind = Literal["live", "object"]


@dataclass(frozen=True)
class Photo:
    """One photograph of the data set: its file, and its author."""

    file: str
    """Its name inside the subject's folder."""
    sha256: str
    author: str
    licence: str
    url: str | None
    """Where it was published; None where the data set names no address."""
    size: int
    """In bytes."""
    note: str = ""
    """The data set's own remark, such as "02 flipped"."""

    @property
    def credit(self) -> str:
        """The line to show wherever the photograph is shown."""
        return f"{self.author} ({self.licence})"


@dataclass(frozen=True)
class Subject:
    """One object or animal that a method learns from a few images."""

    name: str
    class_noun: str
    live: bool
    photos: tuple[Photo, ...] = ()
    """Its photographs in the DreamBooth data set."""

    @property
    def kind(self) -> SubjectKind:
        """Which of the two prompt lists is meant for it."""
        return "live" if self.live else "object"


@cache
def load_subjects() -> tuple[Subject, ...]:
    """Return the 30 subjects of the DreamBooth data set, in its own order."""
    document = read_toml(files("dbbench.subjects") / "subjects.toml", "the subjects")
    return tuple(
        Subject(
            name=table["name"],
            class_noun=table["class_noun"],
            live=table["live"],
            photos=tuple(Photo(**{"url": None, **photo}) for photo in table["photos"]),
        )
        for table in document["subject"]
    )
