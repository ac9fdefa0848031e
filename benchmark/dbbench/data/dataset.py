"""Data set: the protocol behind which photographs and the embedded world look the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dbbench.data.subject import Subject

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class ReferenceImage:
    """One image of a subject, ready to train on and to compare with."""

    name: str
    image: Image.Image
    """RGB, square, in the resolution asked for."""
    sha256: str
    """Of the bytes it was made from."""
    credit: str
    truth: dict[str, Any] | None
    """What the image is known to show; None for a photograph."""


class ImageSource(Protocol):
    """Where the images of a subject come from: photographs, or the embedded world."""

    @property
    def name(self) -> str:
        """A short name for tables and manifests."""

    def fingerprint(self, subject: Subject) -> str:
        """Return a hash of everything that decides the images of a subject."""

    def load(self, subject: Subject) -> tuple[ReferenceImage, ...]:
        """Return the images of a subject, always in the same order."""
