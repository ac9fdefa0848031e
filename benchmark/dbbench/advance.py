"""The callback by which long work reports how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Advance(Protocol):
    """Hears how far a stage is: `done` of `total`, and figures such as the loss."""

    def __call__(self, done: int, total: int, figures: Mapping[str, Any], /) -> None:
        """Take note."""


def silent(done: int, total: int, figures: Mapping[str, Any], /) -> None:
    """Tell nobody."""
