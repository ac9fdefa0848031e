"""The interface of data sets: photographs, drawn subjects, and data sets of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from dbbench.data.prompt import PromptTemplate
from dbbench.data.subject import Subject
from dbbench.errors import UserError, unknown
from dbbench.plugins import load_plugin

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ReferenceImage:
    """One image of a subject, ready to train on and to compare with."""

    name: str
    image: Image.Image
    """RGB, square, in the requested resolution."""
    sha256: str
    """Of the bytes of the original image."""
    credit: str
    truth: dict[str, Any] | None = None
    """What a drawn image shows; None for a photograph."""


class Dataset(Protocol):
    """Subjects, with the prompts and the images of each.

    A plug-in is a class with these members whose constructor needs no arguments.
    """

    @property
    def name(self) -> str:
        """The name of its entry point; suites, tables and manifests use it."""

    @property
    def subjects(self) -> Sequence[Subject]:
        """Every subject, in the order of the tables."""

    def prompts(self, subject: Subject) -> Sequence[PromptTemplate]:
        """Return the prompts of a subject; an id names the same prompt for all subjects."""

    def images(self, subject: Subject, resolution: int) -> Sequence[ReferenceImage]:
        """Return a subject's images, `resolution` pixels wide, always in the same order."""

    def fingerprint(self, subject: Subject, resolution: int) -> str:
        """Return a hash of everything that affects these images."""


def load_dataset(name: str) -> Dataset:
    """Return the data set of that name. Raises UserError for an unknown one."""
    return cast("Dataset", load_plugin("datasets", name)())


def every_prompt(dataset: Dataset) -> dict[str, PromptTemplate]:
    """Return the prompts of all subjects by id."""
    return {p.id: p for subject in dataset.subjects for p in dataset.prompts(subject)}


def select_subjects(dataset: Dataset, expression: str) -> tuple[Subject, ...]:
    """Return the subjects named by "all", "objects", "live" or a list such as "dog,teapot".

    The order is the list's own; a subject named twice counts once. Raises UserError for a name
    that does not exist, and for an empty list.
    """
    known = tuple(dataset.subjects)
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
