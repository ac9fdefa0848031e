"""A paper's table and its claims, in a suite file; the report checks whether a run agrees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbbench.validation import Settings

Relation = Literal["above", "below", "not below", "not above"]


class Published(Settings):
    """The numbers that a paper prints for one row."""

    method: str
    scores: dict[str, float]


class Claim(Settings):
    """One finding: on `metric`, row `first` is `relation` (above, below, ...) row `second`."""

    text: str
    """The finding as a sentence without its full stop: "The prior loss lowers PRES"."""
    metric: str
    first: str
    second: str
    relation: Relation = "above"
    margin: float = Field(default=0.01, gt=0)
    """The tolerance of "not below" and "not above", in the metric's units."""


class PaperTable(Settings):
    """A table of a paper: its title, its source, its numbers and its claims."""

    title: str
    source: str
    note: str = ""
    """A caution for comparing the numbers, such as another backbone."""
    labels: dict[str, str] = Field(default_factory=dict)
    """The row names of the table, by method."""
    published: tuple[Published, ...] = ()
    claims: tuple[Claim, ...] = ()
