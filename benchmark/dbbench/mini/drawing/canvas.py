"""Drawing tools of the embedded world: filled, outlined and patterned shapes in a pose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Points = NDArray[np.float64]  # (n, 2): x to the right, y down

SUPERSAMPLING = 4

PALETTE: dict[str, Color] = {
    "red": (208, 44, 48),
    "orange": (240, 138, 36),
    "yellow": (248, 214, 66),
    "green": (70, 160, 74),
    "blue": (52, 104, 200),
    "purple": (130, 62, 172),
    "pink": (246, 150, 184),
    "brown": (138, 88, 52),
    "black": (46, 44, 52),
    "white": (244, 242, 238),
    "grey": (150, 152, 160),
}
PATTERNS = ("plain", "striped", "spotted", "checked", "two-tone")


def shade(color: Color, factor: float) -> Color:
    """Darken (factor < 1) or lighten towards white (factor > 1) a color."""
    if factor <= 1:
        r, g, b = (round(c * factor) for c in color)
    else:
        r, g, b = (round(c + (255 - c) * (factor - 1)) for c in color)
    return r, g, b


def mix(a: Color, b: Color, t: float) -> Color:
    """Return the color at fraction t between a and b."""
    r, g, b_ = (round(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return r, g, b_


def ellipse(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """Return an ellipse of 36 points, rotated by `turn` radians."""
    t = np.linspace(0, 2 * math.pi, 36, endpoint=False)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = math.cos(turn), math.sin(turn)
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1)


def box(x0: float, y0: float, x1: float, y1: float, *, round_: float = 0.0) -> Points:
    """Return a rectangle; `round_` in 0..1 bends it towards an ellipse (a superellipse)."""
    if round_ <= 0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    power = 0.16 + 0.84 * min(round_, 1.0)
    c, s = np.cos(t), np.sin(t)
    x = np.sign(c) * np.abs(c) ** power
    y = np.sign(s) * np.abs(s) ** power
    return np.stack([(x0 + x1) / 2 + x * (x1 - x0) / 2, (y0 + y1) / 2 + y * (y1 - y0) / 2], axis=1)


def smooth(corners: Sequence[tuple[float, float]], *, steps: int = 6) -> Points:
    """Return a closed Catmull-Rom curve through the corners."""
    p = np.asarray(corners, dtype=float)
    before, after, far = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (q[:, None, :] for q in (before, p, after, far))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return np.asarray(curve.reshape(-1, 2))


def polygon(*corners: tuple[float, float]) -> Points:
    """Return a polygon from its corners."""
    return np.asarray(corners, dtype=float)


@dataclass(frozen=True)
class Pose:
    """Position of an object: centre and half-size as fractions of the frame, tilt in radians."""

    x: float = 0.5
    y: float = 0.5
    size: float = 0.5
    tilt: float = 0.0
    flip: bool = False


FRAME = Pose()  # the whole picture: x and y from -1 to 1


class Canvas:
    """A square RGB picture, drawn at four times its size and reduced at the end."""

    def __init__(self, size: int) -> None:
        self.side = size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side))
        self.pen = ImageDraw.Draw(self.image)
        self.pose = FRAME
        self.texture: Image.Image | None = None

    def place(self, points: Points) -> list[float]:
        """Return pixel coordinates x0, y0, x1, ... of local points under the current pose."""
        p = self.pose
        c, s = math.cos(p.tilt) * p.size, math.sin(p.tilt) * p.size
        x, y = points.T
        x = -x if p.flip else x
        placed = np.stack([p.x + c * x - s * y, p.y + s * x + c * y], axis=1) * self.side
        flat: list[float] = placed.ravel().tolist()
        return flat

    def fill(self, points: Points, color: Color) -> None:
        """Fill a shape, without an outline."""
        self.pen.polygon(self.place(points), fill=color)

    def line(self, points: Points, color: Color, width: float = 0.05) -> None:
        """Stroke an open line; width in local units."""
        pixels = max(1, round(width * self.pose.size * self.side))
        self.pen.line(self.place(points), fill=color, width=pixels, joint="curve")

    def part(self, points: Points, color: Color | None, *, edge: Color | None = None) -> None:
        """Fill a shape and outline it; color None is the pattern set by `set_texture`."""
        at = self.place(points)
        if color is None:
            if self.texture is None:
                raise ValueError("no texture set: call set_texture before drawing a patterned part")
            self.image.paste(self.texture, (0, 0), self._stencil(at, 255))
        else:
            self.pen.polygon(at, fill=color)
        outline = edge if edge is not None else shade(color or (110, 90, 90), 0.5)
        width = max(1, round(0.045 * self.pose.size * self.side))
        self.pen.line([*at, *at[:4]], fill=outline, width=width, joint="curve")

    def veil(self, points: Points, color: Color, alpha: float) -> None:
        """Draw a translucent shape; `alpha` 1 is opaque."""
        mask = self._stencil(self.place(points), round(255 * alpha))
        self.image.paste(color, (0, 0, self.side, self.side), mask)

    def _stencil(self, at: list[float], opacity: int) -> Image.Image:
        mask = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(mask).polygon(at, fill=opacity)
        return mask

    def set_texture(self, main: Color, second: Color, pattern: str) -> None:
        """Choose the pattern that `part(..., None)` fills with.

        The pattern is fixed to the picture, not to the pose, in cells of an eighth of the
        picture. Shapes are cut out of it.
        """
        self.texture = Image.new("RGB", (self.side, self.side), main)
        pen = ImageDraw.Draw(self.texture)
        for shape in _pattern(pattern):
            pen.polygon((shape * (self.side / 8)).ravel().tolist(), fill=second)

    def finish(self, size: int) -> Image.Image:
        """Return the picture at its final size."""
        return self.image.resize((size, size), Image.Resampling.BOX)


def _pattern(name: str) -> list[Points]:
    """Return the shapes in the second color, on a picture of 8 x 8 cells."""
    cells = range(8)
    if name == "plain":
        return []
    if name == "striped":
        return [box(0, y, 8, y + 0.5) for y in cells]
    if name == "spotted":
        return [ellipse(x + 0.5, y + 0.5, 0.3, 0.3) for x in cells for y in cells]
    if name == "checked":
        return [box(x, y, x + 1, y + 1) for x in cells for y in cells if (x + y) % 2]
    if name == "two-tone":
        return [box(4, 0, 8, 8)]
    raise ValueError(f"unknown pattern {name!r}; known: {', '.join(PATTERNS)}")
