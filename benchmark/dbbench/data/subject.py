"""Subjects and where their images come from: the top of the flow, read by every later stage."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from dbbench.errors import UserError, unknown

if TYPE_CHECKING:
    pass

Kind = Literal["live", "object"]


@dataclass(frozen=True)
class Photo:
    """One photograph of the data set: what file it is, and whom to credit for it."""

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
    """One thing or animal that a method shall learn from a few images."""

    name: str
    class_noun: str
    live: bool
    photos: tuple[Photo, ...]

    @property
    def kind(self) -> Kind:
        """Which of the two prompt lists is meant for it."""
        return "live" if self.live else "object"


@cache
def load_subjects() -> tuple[Subject, ...]:
    """Return the 30 subjects of the DreamBooth data set, in its own order."""
    document = tomllib.loads((files("dbbench.subjects") / "subjects.toml").read_text("utf-8"))
    return tuple(
        Subject(
            name=table["name"],
            class_noun=table["class_noun"],
            live=table["live"],
            photos=tuple(Photo(**{"url": None, **photo}) for photo in table["photos"]),
        )
        for table in document["subject"]
    )


def select_subjects(expression: str) -> tuple[Subject, ...]:
    """Return the subjects named by "all", "objects", "live" or a list such as "dog,teapot".

    The order is the list's own; a subject named twice counts once. Raises UserError for a name
    that does not exist, and for an empty list.
    """
    known = load_subjects()
    groups = {
        "all": known,
        "objects": tuple(subject for subject in known if not subject.live),
        "live": tuple(subject for subject in known if subject.live),
    }
    by_name = groups | {subject.name: (subject,) for subject in known}
    chosen: dict[str, Subject] = {}
    for name in filter(None, (part.strip() for part in expression.split(","))):
        if name not in by_name:
            raise unknown("subject", name, by_name, "dbbench list subjects")
        chosen |= {subject.name: subject for subject in by_name[name]}
    if not chosen:
        raise UserError(
            f'no subject in "{expression}"; write all, objects, live or names such as dog,teapot'
        )
    return tuple(chosen.values())
