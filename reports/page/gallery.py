"""What the gallery shows of a subject: references, sheets of samples, strips of the class noun."""

from __future__ import annotations

from dataclasses import dataclass

PIXEL_ART = 96
"""Images up to this side are shown at twice their size with hard pixels."""


@dataclass(frozen=True)
class Reference:
    """A reference image as the page shows it; `file` is relative to the report's folder."""

    file: str
    width: int
    height: int
    credit: str


@dataclass(frozen=True)
class Sheet:
    """All samples of one method and subject: `prompts` top to bottom as (id, text)."""

    method: str
    file: str
    prompts: tuple[tuple[str, str], ...]
    places: tuple[tuple[int, int], ...]
    """Left to right, each column's seed and image number."""
    cell: int

    @property
    def columns(self) -> int:
        """Number of images in a row."""
        return len(self.places)

    def across(self, seed: int, number: int) -> str:
        """Return the CSS position of an image's column."""
        return _percent(self.places.index((seed, number)), len(self.places))

    def down(self, prompt: str) -> str | None:
        """Return the CSS position of a prompt's row by its id; None if it has no samples."""
        ids = [known for known, _ in self.prompts]
        return _percent(ids.index(prompt), len(ids)) if prompt in ids else None

    @property
    def size(self) -> int:
        """The side of one sample on the page in CSS pixels."""
        return shown(self.cell)


@dataclass(frozen=True)
class Strip:
    """Images of the class noun alone, side by side: before training, or after one."""

    label: str
    """The method; "" is the frozen backbone."""
    file: str
    columns: int
    cell: int

    @property
    def size(self) -> int:
        """The side of one image on the page in CSS pixels."""
        return shown(self.cell)


@dataclass(frozen=True)
class SubjectPictures:
    """What the gallery shows of one subject."""

    name: str
    class_noun: str
    kind: str
    references: tuple[Reference, ...]
    sheets: tuple[Sheet, ...]
    drift: tuple[Strip, ...] = ()
    """Images of the class noun alone: of the frozen backbone, then after each method."""

    @property
    def shared_credit(self) -> str:
        """The credit of all reference images; "" if they differ."""
        credits = {reference.credit for reference in self.references}
        return credits.pop() if len(credits) == 1 else ""

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """All prompts with samples of at least one method, as (id, text)."""
        return list(dict.fromkeys(prompt for sheet in self.sheets for prompt in sheet.prompts))


def shown(side: int) -> int:
    """Return the side in CSS pixels at which an image of `side` pixels is shown."""
    return 2 * side if side <= PIXEL_ART else side


def _percent(index: int, count: int) -> str:
    return f"{100 * index / max(1, count - 1):.4g}%"
