"""Outfits of the live subjects in the embedded world, for the ten accessory prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dbbench.mini.drawing.canvas import Canvas, Color, box, ellipse, polygon, smooth
from dbbench.mini.drawing.nouns import INK, PAPER, Anchors

RED: Color = (222, 34, 40)
GOLD: Color = (250, 206, 60)
NAVY: Color = (34, 50, 112)
PURPLE: Color = (112, 44, 168)


def _shirt(c: Canvas, a: Anchors, color: Color) -> None:
    half, bottom = a.body[0] + 0.1, a.body[1] - 0.1
    c.part(
        smooth([(-half * 0.7, a.neck), (half * 0.7, a.neck), (half, bottom), (-half, bottom)]),
        color,
    )


def _brim(c: Canvas, a: Anchors, color: Color, *, half: float = 1.0, thick: float = 0.1) -> float:
    """Draw a hat's brim on the head; return the height where the hat starts."""
    y = a.head[1] - a.radius * 0.62
    half *= a.radius
    c.part(box(-half, y - thick, half, y + thick, round_=0.6), color)
    return y


def red_hat(c: Canvas, a: Anchors) -> None:
    y = a.head[1] - a.radius * 0.6
    t = np.linspace(np.pi, 2 * np.pi, 20)
    r = a.radius * 0.85
    c.part(np.stack([r * np.cos(t), y + r * 0.95 * np.sin(t)], axis=1), RED)
    _brim(c, a, RED, half=1.25)


def santa_hat(c: Canvas, a: Anchors) -> None:
    y = a.head[1] - a.radius * 0.6
    r = a.radius * 0.85
    c.part(smooth([(-r, y), (-r * 0.4, y - 0.42), (0.5, y - 0.4), (0.62, y - 0.1), (r, y)]), RED)
    c.part(ellipse(0.62, y - 0.1, 0.15, 0.15), PAPER)
    _brim(c, a, PAPER, thick=0.13)


def rainbow_scarf(c: Canvas, a: Anchors) -> None:
    half = a.body[0] + 0.08
    rainbow: tuple[Color, ...] = (
        (226, 40, 44), (246, 148, 40), (250, 222, 60), (70, 176, 80), (54, 110, 214),
    )  # fmt: skip
    for i, color in enumerate(rainbow):
        y = a.neck - 0.1 + 0.075 * i
        c.fill(box(-half, y, half, y + 0.08), color)
        x = half * 0.3 + 0.075 * i
        c.fill(box(x, a.neck + 0.2, x + 0.08, a.neck + 0.72), color)


def top_hat_monocle(c: Canvas, a: Anchors) -> None:
    y = _brim(c, a, INK, half=1.2, thick=0.08)
    w = a.radius * 0.74
    c.part(box(-w, y - 0.52, w, y), INK)
    c.fill(box(-w, y - 0.2, w, y - 0.08), (150, 30, 40))
    x = a.radius * 0.44
    ring = ellipse(x, a.eyes, 0.19, 0.19)
    c.line(np.concatenate([ring, ring[:2]]), GOLD, 0.08)
    c.line(polygon((x + 0.16, a.eyes + 0.1), (x + 0.24, a.neck + 0.1)), GOLD, 0.05)


def chef(c: Canvas, a: Anchors) -> None:
    _shirt(c, a, PAPER)
    for y in (a.neck + 0.26, a.neck + 0.46):
        for x in (-0.1, 0.1):
            c.fill(ellipse(x, y, 0.045, 0.045), INK)
    c.part(polygon((-0.26, a.neck - 0.04), (0.26, a.neck - 0.04), (0, a.neck + 0.2)), RED)
    y = a.head[1] - a.radius * 0.62
    for x, lift in ((-0.24, 0.3), (0.24, 0.3), (0, 0.4)):
        c.part(ellipse(x, y - lift, 0.25, 0.22), PAPER)
    c.fill(box(-0.3, y - 0.32, 0.3, y - 0.05), PAPER)
    _brim(c, a, PAPER, half=0.78, thick=0.12)


def firefighter(c: Canvas, a: Anchors) -> None:
    coat: Color = (52, 50, 54)
    _shirt(c, a, coat)
    half = a.body[0] + 0.06
    for y in (a.neck + 0.22, a.neck + 0.5):
        c.fill(box(-half, y, half, y + 0.12), (224, 246, 60))
    y = a.head[1] - a.radius * 0.58
    t = np.linspace(np.pi, 2 * np.pi, 20)
    r = a.radius * 0.9
    c.part(np.stack([r * np.cos(t), y + r * np.sin(t)], axis=1), (200, 24, 30))
    _brim(c, a, (200, 24, 30), half=1.3, thick=0.08)
    c.part(polygon((-0.16, y - 0.34), (0.16, y - 0.34), (0.12, y - 0.04), (-0.12, y - 0.04)), GOLD)


def police(c: Canvas, a: Anchors) -> None:
    _shirt(c, a, NAVY)
    c.part(ellipse(-0.2, a.neck + 0.34, 0.11, 0.11), GOLD)
    c.line(polygon((0, a.neck), (0, a.body[1] - 0.14)), GOLD, 0.05)
    y = a.head[1] - a.radius * 0.6
    r = a.radius
    c.part(smooth([(-r * 0.9, y), (-r * 1.15, y - 0.34), (r * 1.15, y - 0.34), (r * 0.9, y)]), NAVY)
    _brim(c, a, INK, half=0.85, thick=0.09)
    c.part(ellipse(0, y - 0.2, 0.11, 0.12), GOLD)


def pink_glasses(c: Canvas, a: Anchors) -> None:
    frame: Color = (255, 84, 168)
    x, r = a.radius * 0.46, a.radius * 0.42
    c.line(polygon((-x, a.eyes), (x, a.eyes)), frame, 0.1)
    for side in (-1, 1):
        c.line(polygon((side * x, a.eyes), (side * a.radius * 1.02, a.eyes - 0.06)), frame, 0.1)
        c.part(ellipse(side * x, a.eyes, r, r), frame)
        c.fill(ellipse(side * x, a.eyes, r * 0.56, r * 0.56), (255, 206, 232))
        c.fill(ellipse(side * x, a.eyes, r * 0.28, r * 0.28), INK)


def yellow_shirt(c: Canvas, a: Anchors) -> None:
    yellow: Color = (252, 224, 40)
    _shirt(c, a, yellow)
    for side in (-1, 1):
        x = side * (a.body[0] + 0.04)
        c.part(ellipse(x, a.neck + 0.28, 0.17, 0.24), yellow)


def wizard(c: Canvas, a: Anchors) -> None:
    half, bottom = a.body[0] + 0.2, a.body[1]
    c.part(
        polygon((-half * 0.45, a.neck), (half * 0.45, a.neck), (half, bottom), (-half, bottom)),
        PURPLE,
    )
    y = _brim(c, a, PURPLE, half=1.35, thick=0.09)
    c.part(polygon((-a.radius * 0.8, y), (0.12, y - 0.74), (a.radius * 0.8, y)), PURPLE)
    for x, v in ((-0.14, y - 0.16), (0.12, y - 0.36), (-0.2, a.neck + 0.3), (0.22, a.neck + 0.5)):
        c.fill(star(x, v, 0.12), GOLD)


def star(x: float, y: float, r: float) -> np.ndarray:
    """Return the corners of a five-pointed star around (x, y)."""
    t = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, r, r * 0.42)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=1)


OUTFITS: dict[str, Callable[[Canvas, Anchors], None]] = {
    "red-hat": red_hat,
    "santa-hat": santa_hat,
    "rainbow-scarf": rainbow_scarf,
    "top-hat-monocle": top_hat_monocle,
    "chef": chef,
    "firefighter": firefighter,
    "police": police,
    "pink-glasses": pink_glasses,
    "yellow-shirt": yellow_shirt,
    "wizard": wizard,
}
