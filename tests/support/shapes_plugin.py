"""Drawn shapes: a data set of a ring and a blob, with prompts of its own."""

from __future__ import annotations

import hashlib

from PIL import Image, ImageDraw

from dbbench import PromptTemplate, ReferenceImage, Subject

VERSION = 1
"""Raise it when a drawing changes."""


class Shapes:
    """Two subjects of three images each."""

    name = "shapes"
    subjects = (Subject("ring", "ring", live=False), Subject("blob", "creature", live=True))

    def prompts(self, subject: Subject) -> list[PromptTemplate]:
        """One prompt for both, and one more for what is alive."""
        prompts = [
            PromptTemplate("desk", "a {token} {class_noun} on a desk", "recontextualization")
        ]
        if subject.live:
            prompts += [PromptTemplate("asleep", "a {token} {class_noun} asleep", "property")]
        return prompts

    def images(self, subject: Subject, resolution: int) -> list[ReferenceImage]:
        """Draw the subject in three sizes."""
        return [self._image(subject, resolution, share) for share in (0.9, 0.7, 0.5)]

    def fingerprint(self, subject: Subject, resolution: int) -> str:
        """Nothing but these decides an image."""
        return f"shapes {VERSION} {subject.name} {resolution}"

    def _image(self, subject: Subject, resolution: int, share: float) -> ReferenceImage:
        image = Image.new("RGB", (resolution, resolution), "white")
        margin = resolution * (1 - share) / 2
        box = (margin, margin, resolution - margin, resolution - margin)
        fill = "seagreen" if subject.name == "blob" else None
        ImageDraw.Draw(image).ellipse(box, fill=fill, outline="navy", width=2)
        return ReferenceImage(
            name=f"{subject.name} {share}",
            image=image,
            sha256=hashlib.sha256(image.tobytes()).hexdigest(),
            credit="drawn for a test",
            truth={"share": share},
        )
