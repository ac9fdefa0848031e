"""The progress callback of long work: stages, encoding and drawing call it, a display shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Advance(Protocol):
    """Callback for progress: `done` of `total`, and figures such as the loss."""

    def __call__(self, done: int, total: int, figures: Mapping[str, Any], /) -> None:
        """Report progress."""


def silent(done: int, total: int, figures: Mapping[str, Any], /) -> None:
    """Ignore all progress; the default."""
