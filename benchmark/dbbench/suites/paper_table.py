"""Claim: what a paper found, as a suite states it; a report says whether a run shows it too."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Relation = Literal["above", "below", "not below", "not above"]


class Published(BaseModel):
    """The numbers that a paper prints for one row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    scores: dict[str, float]


class Claim(BaseModel):
    """One finding: on `metric`, row `first` stands in `relation` to row `second`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    """The finding as a sentence without its end: "The prior loss lowers PRES"."""
    metric: str
    first: str
    second: str
    relation: Relation = "above"
    margin: float = Field(default=0.01, gt=0)
    """How much counts as nothing for "not below" and "not above", in the metric's units."""


class PaperTable(BaseModel):
    """A table of a paper: its title, where it is printed, its numbers, and what it is to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    note: str = ""
    """What must be known before numbers are compared, such as another backbone."""
    labels: dict[str, str] = {}
    """How the table calls its rows, by method."""
    published: tuple[Published, ...] = ()
    claims: tuple[Claim, ...] = ()
