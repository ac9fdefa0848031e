"""Claim: what a paper found, as a suite states it; a report says whether a run shows it too."""

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
    """One finding: on `metric`, row `first` stands in `relation` to row `second`."""

    text: str
    """The finding as a sentence without its end: "The prior loss lowers PRES"."""
    metric: str
    first: str
    second: str
    relation: Relation = "above"
    margin: float = Field(default=0.01, gt=0)
    """How much counts as nothing for "not below" and "not above", in the metric's units."""


class PaperTable(Settings):
    """A table of a paper: its title, where it is printed, its numbers, and what it is to show."""

    title: str
    source: str
    note: str = ""
    """What must be known before numbers are compared, such as another backbone."""
    labels: dict[str, str] = Field(default_factory=dict)
    """How the table calls its rows, by method."""
    published: tuple[Published, ...] = ()
    claims: tuple[Claim, ...] = ()
