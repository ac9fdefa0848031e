"""The 15 class nouns of the embedded world: one parametric drawing each, in the square -1..1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dbbench.mini.drawing.canvas import Canvas, Color, box, ellipse, polygon, shade, smooth

INK: Color = (40, 34, 40)
PAPER: Color = (250, 248, 242)
Proportions = tuple[float, float, float, float]


@dataclass(frozen=True)
class Look:
    """The features of an identity that a drawing uses: proportions in 0..1 and second color."""

    proportions: Proportions
    second: Color

    def span(self, index: int, low: float, high: float) -> float:
        """Return proportion `index` mapped to low..high."""
        return low + (high - low) * self.proportions[index]


@dataclass(frozen=True)
class Anchors:
    """Positions for outfits: head centre and radius, eyes, neck, body box; in local units."""

    head: tuple[float, float] = (0.0, -0.4)
    radius: float = 0.4
    eyes: float = -0.42
    neck: float = 0.05
    body: tuple[float, float] = (0.45, 0.95)  # half width, bottom


def _eyes(c: Canvas, x: float, y: float, r: float) -> None:
    for side in (-1, 1):
        c.fill(ellipse(side * x, y, r * 1.3, r * 1.45), PAPER)
        c.fill(ellipse(side * x, y, r, r * 1.1), INK)


def dog(c: Canvas, k: Look) -> Anchors:
    head, body = k.span(0, 0.4, 0.54), k.span(1, 0.38, 0.56)
    y = -0.36
    c.part(smooth([(0.3, 0.7), (0.75, 0.55), (0.98, 0.1), (0.86, 0.05), (0.62, 0.42)]), None)
    c.part(ellipse(0, 0.5, body, 0.48), None)
    for side in (-1, 1):
        c.part(ellipse(side * body * 0.62, 0.9, 0.2, 0.12), k.second)
    c.part(ellipse(0, y, head, head * 0.92), None)
    long = k.span(2, 0.28, 0.62)
    for side in (-1, 1):
        c.part(
            smooth(
                [
                    (side * head * 0.55, y - head * 0.85),
                    (side * (head + 0.2), y - 0.18),
                    (side * (head + 0.16), y + long),
                    (side * (head - 0.06), y + long - 0.06),
                    (side * (head - 0.06), y - 0.1),
                ]
            ),
            shade(k.second, 0.8),
        )
    snout = k.span(3, 0.2, 0.32)
    c.part(ellipse(0, y + 0.2, snout, snout * 0.8), shade(k.second, 1.3))
    c.fill(ellipse(0, y + 0.1, 0.11, 0.08), INK)
    _eyes(c, head * 0.42, y - 0.12, 0.085)
    return Anchors((0.0, y), head, y - 0.12, y + head * 0.86, (body, 0.95))


def cat(c: Canvas, k: Look) -> Anchors:
    head, body = k.span(0, 0.4, 0.52), k.span(1, 0.32, 0.48)
    y = -0.3
    c.line(
        smooth([(0.3, 0.8), (0.85, 0.7), (0.9, 0.1), (0.7, -0.1)])[:14],
        shade(k.second, 0.75),
        0.17,
    )
    c.part(ellipse(0, 0.52, body, 0.46), None)
    for side in (-1, 1):
        c.part(ellipse(side * body * 0.6, 0.92, 0.16, 0.1), k.second)
    tall = k.span(2, 0.62, 0.8)
    for side in (-1, 1):
        outer = polygon(
            (side * head * 0.95, y - 0.1), (side * head * 0.92, y - tall), (side * 0.06, y - 0.3)
        )
        c.part(outer, None)
        c.fill(outer * 0.55 + np.array([side * head * 0.3, (y - 0.3) * 0.45]), (240, 160, 170))
    c.part(ellipse(0, y, head, head * 0.86), None)
    c.part(ellipse(0, y + 0.2, k.span(3, 0.16, 0.26), 0.15), shade(k.second, 1.3))
    c.fill(polygon((-0.07, y + 0.1), (0.07, y + 0.1), (0, y + 0.19)), (220, 110, 130))
    for side in (-1, 1):
        for drop in (-0.04, 0.08):
            c.line(polygon((side * 0.24, y + 0.2), (side * 0.72, y + 0.2 + drop)), INK, 0.03)
    for side in (-1, 1):
        c.fill(ellipse(side * head * 0.45, y - 0.06, 0.12, 0.12), (170, 214, 90))
        c.fill(ellipse(side * head * 0.45, y - 0.06, 0.045, 0.11), INK)
    return Anchors((0.0, y), head, y - 0.06, y + head * 0.8, (body, 0.95))


def stuffed_animal(c: Canvas, k: Look) -> Anchors:
    head, ear = k.span(0, 0.42, 0.54), k.span(1, 0.16, 0.27)
    y = -0.34
    for side in (-1, 1):
        c.part(ellipse(side * 0.46, 0.78, 0.28, 0.22), None)
        c.fill(ellipse(side * 0.5, 0.8, 0.14, 0.12), k.second)
        c.part(ellipse(side * 0.66, 0.24, 0.32, 0.17, side * 0.5), None)
        c.part(ellipse(side * head * 0.8, y - head * 0.7, ear, ear), None)
        c.fill(ellipse(side * head * 0.8, y - head * 0.7, ear * 0.55, ear * 0.55), k.second)
    c.part(ellipse(0, 0.44, 0.5, 0.46), None)
    c.part(ellipse(0, 0.48, k.span(2, 0.22, 0.36), 0.3), shade(k.second, 1.15))
    c.part(ellipse(0, y, head, head * 0.88), None)
    c.part(ellipse(0, y + 0.16, k.span(3, 0.18, 0.28), 0.17), shade(k.second, 1.35))
    c.fill(ellipse(0, y + 0.09, 0.09, 0.065), INK)
    for side in (-1, 1):
        c.fill(ellipse(side * 0.2, y - 0.1, 0.075, 0.075), INK)
    return Anchors((0.0, y), head, y - 0.1, 0.05, (0.5, 0.95))


def backpack(c: Canvas, k: Look) -> Anchors:
    w, top = k.span(0, 0.52, 0.7), k.span(1, -0.82, -0.62)
    c.line(
        smooth([(-0.2, top + 0.1), (-0.16, top - 0.24), (0.16, top - 0.24), (0.2, top + 0.1)])[:20],
        shade(k.second, 0.7),
        0.1,
    )
    for side in (-1, 1):
        c.part(box(side * w - 0.16, 0.1, side * w + 0.16, 0.8, round_=0.4), k.second)
    c.part(box(-w, top, w, 0.92, round_=k.span(2, 0.15, 0.5)), None)
    pocket = k.span(3, 0.1, 0.34)
    c.part(box(-w * 0.66, pocket, w * 0.66, 0.8, round_=0.25), k.second)
    c.line(polygon((-w * 0.5, pocket + 0.14), (w * 0.5, pocket + 0.14)), INK, 0.05)
    c.line(polygon((-w * 0.8, top + 0.42), (w * 0.8, top + 0.42)), INK, 0.05)
    return Anchors()


def bowl(c: Canvas, k: Look) -> Anchors:
    w, deep = k.span(0, 0.72, 0.92), k.span(1, 0.55, 0.8)
    c.part(box(-0.34, deep - 0.04, 0.34, deep + 0.14), shade(k.second, 0.8))
    berry = k.span(2, 0.15, 0.23)
    for row, y in enumerate((-0.34, -0.16)):
        for x in np.linspace(-w * 0.62 + row * -0.1, w * 0.62 + row * 0.1, 4 + row):
            c.part(ellipse(float(x), y, berry, berry), k.second)
    t = np.linspace(0, np.pi, 24)
    sides = np.stack([w * np.cos(t), deep * np.sin(t) ** k.span(3, 0.6, 1.0)], axis=1)
    c.part(sides, None)
    c.part(box(-w - 0.05, -0.1, w + 0.05, 0.06, round_=0.3), None)
    return Anchors()


def can(c: Canvas, k: Look) -> Anchors:
    w, top = k.span(0, 0.38, 0.56), k.span(1, -0.88, -0.6)
    metal: Color = (196, 200, 208)
    c.part(ellipse(0, 0.84, w, 0.13), metal)
    c.part(box(-w, top, w, 0.84), None)
    band = k.span(2, -0.2, 0.25)
    c.part(ellipse(0, band, w * k.span(3, 0.5, 0.8), 0.26), k.second)
    c.part(box(-w, top - 0.04, w, top + 0.1), metal)
    c.part(ellipse(0, top - 0.02, w, 0.13), shade(metal, 1.3))
    c.fill(ellipse(0.06, top - 0.02, 0.14, 0.05), shade(metal, 0.6))
    return Anchors()


def candle(c: Canvas, k: Look) -> Anchors:
    w, top = k.span(0, 0.24, 0.4), k.span(1, -0.4, -0.15)
    c.part(ellipse(0, 0.84, k.span(2, 0.55, 0.8), 0.15), k.second)
    c.part(box(-w, top, w, 0.84, round_=0.12), None)
    c.part(ellipse(0, top, w, 0.1), PAPER)
    c.line(polygon((0, top), (0, top - 0.2)), INK, 0.06)
    tall = k.span(3, 0.42, 0.56)
    for scale, color in ((1.0, (246, 150, 40)), (0.6, (255, 232, 120))):
        c.fill(
            smooth(
                [
                    (0, top - 0.1 - tall * scale),
                    (0.18 * scale, top - 0.22),
                    (0, top - 0.1),
                    (-0.18 * scale, top - 0.22),
                ]
            ),
            color,
        )
    return Anchors()


def clock(c: Canvas, k: Look) -> Anchors:
    r = k.span(0, 0.62, 0.76)
    y = 0.14
    for side in (-1, 1):
        c.part(ellipse(side * 0.46, y - r, k.span(1, 0.2, 0.32), 0.18, side * 0.6), k.second)
        c.line(polygon((side * 0.4, y + r * 0.7), (side * 0.62, 0.98)), INK, 0.13)
    c.part(ellipse(0, y, r, r), None)
    c.part(ellipse(0, y, r * k.span(2, 0.64, 0.8), r * k.span(2, 0.64, 0.8)), PAPER)
    for angle in np.arange(0, 2 * np.pi, np.pi / 2):
        c.fill(ellipse(0.42 * np.cos(angle), y + 0.42 * np.sin(angle), 0.045, 0.045), INK)
    c.line(polygon((0, y), (0, y - 0.38)), INK, 0.07)
    c.line(polygon((0, y), (k.span(3, 0.16, 0.3), y + 0.12)), INK, 0.07)
    return Anchors()


def sneaker(c: Canvas, k: Look) -> Anchors:
    ankle, toe = k.span(0, -0.5, -0.2), k.span(1, 0.0, 0.16)
    upper = [(-0.85, ankle), (-0.3, ankle), (-0.05, 0.0)]
    c.part(
        smooth([*upper, (0.55, toe), (0.92, 0.36), (0.9, 0.6), (-0.85, 0.6), (-0.92, 0.1)]),
        None,
    )
    c.part(ellipse(0.72, 0.42, 0.22, 0.2), k.second)
    c.part(box(-0.96, 0.54, 0.98, 0.54 + k.span(2, 0.16, 0.28), round_=0.3), PAPER)
    for i in range(3):
        x = -0.22 + 0.2 * i
        c.line(
            polygon((x - 0.1, ankle + 0.26 + 0.12 * i), (x + 0.14, ankle + 0.12 + 0.14 * i)),
            PAPER,
            0.08,
        )
    c.line(polygon((-0.62, 0.5), (-0.3, k.span(3, 0.0, 0.2))), k.second, 0.14)
    c.part(box(-0.9, ankle - 0.06, -0.3, ankle + 0.08, round_=0.5), k.second)
    return Anchors()


def boot(c: Canvas, k: Look) -> Anchors:
    top, leg = k.span(0, -0.92, -0.66), k.span(1, 0.06, 0.2)
    shaft = [(-0.6, top), (leg, top), (leg - 0.02, 0.16)]
    c.part(
        smooth([*shaft, (0.62, 0.34), (0.84, 0.68), (0.8, 0.76), (-0.6, 0.76), (-0.66, 0.2)]),
        None,
    )
    c.part(box(-0.68, 0.72, 0.88, 0.84), INK)
    c.part(box(-0.68, 0.8, -0.24, 0.84 + k.span(2, 0.08, 0.16)), INK)
    c.part(box(-0.7, top - 0.08, leg + 0.1, top + k.span(3, 0.12, 0.28), round_=0.3), k.second)
    for i in range(3):
        y = top + 0.42 + 0.19 * i
        c.line(polygon((leg - 0.28, y), (leg + 0.02, y)), PAPER, 0.07)
    return Anchors()


def glasses(c: Canvas, k: Look) -> Anchors:
    r, bend = k.span(0, 0.32, 0.42), k.span(1, 0.2, 1.0)
    tall = r * k.span(2, 0.75, 1.05)
    for side in (-1, 1):
        c.part(
            polygon(
                (side * 0.84, -0.2), (side * 1.0, -0.42), (side * 1.0, -0.22), (side * 0.84, 0.02)
            ),
            None,
        )
        x = side * 0.46
        c.part(box(x - r - 0.1, -tall - 0.06, x + r + 0.1, tall + 0.14, round_=bend), None)
        lens = shade(k.second, 0.62)  # darkened, as sunglasses are
        c.part(box(x - r + 0.05, -tall + 0.08, x + r - 0.05, tall, round_=bend), lens)
        c.line(polygon((x - 0.14, 0.06), (x + 0.02, -0.16)), PAPER, 0.06)
    c.part(box(-0.14, -0.12, 0.14, k.span(3, 0.0, 0.1)), None)
    return Anchors()


def teapot(c: Canvas, k: Look) -> Anchors:
    w, tall = k.span(0, 0.5, 0.62), k.span(1, 0.42, 0.56)
    y = 0.24
    reach = k.span(2, -0.42, -0.14)
    c.part(
        smooth(
            [(0.35, 0.5), (0.72, 0.3), (0.86, reach), (1.0, reach - 0.02), (0.9, 0.4), (0.5, 0.7)]
        ),
        None,
    )
    c.line(
        smooth([(-0.4, -0.04), (-0.86, -0.1), (-0.92, 0.44), (-0.42, 0.56)])[:20], k.second, 0.14
    )
    c.part(ellipse(0, y, w, tall), None)
    c.part(box(-0.36, y + tall - 0.08, 0.36, y + tall + 0.08), shade(k.second, 0.8))
    c.part(ellipse(0, y - tall + 0.06, k.span(3, 0.28, 0.4), 0.13), k.second)
    c.part(ellipse(0, y - tall - 0.14, 0.12, 0.12), k.second)
    return Anchors()


def vase(c: Canvas, k: Look) -> Anchors:
    belly, neck, low = k.span(0, 0.34, 0.56), k.span(1, 0.14, 0.26), k.span(2, 0.3, 0.55)
    for i, x in enumerate((-0.3, 0.0, 0.3)):
        y = -0.72 - (0.14 if i == 1 else 0.0)
        c.line(polygon((x * 0.3, -0.2), (x, y)), (60, 130, 60), 0.06)
        c.part(ellipse(x, y, 0.17, 0.17), k.second)
        c.fill(ellipse(x, y, 0.07, 0.07), (250, 220, 90))
    half = [(neck + 0.08, -0.3), (neck, -0.12), (belly, low - 0.1), (belly * 0.9, low + 0.15)]
    half.append((belly * 0.5, 0.92))
    c.part(smooth([*half, *[(-x, y) for x, y in reversed(half)]]), None)
    c.part(box(-neck - 0.1, -0.38, neck + 0.1, -0.24, round_=0.4), k.second)
    c.part(box(-belly * 0.6, 0.82, belly * 0.6, 0.82 + k.span(3, 0.08, 0.14)), k.second)
    return Anchors()


def toy(c: Canvas, k: Look) -> Anchors:
    w, eye = k.span(0, 0.5, 0.68), k.span(1, 0.15, 0.25)
    bend = k.span(2, 0.12, 0.8)
    c.line(polygon((0, -0.5), (0, -0.86)), INK, 0.07)
    c.part(ellipse(0, -0.86, 0.13, 0.13), k.second)
    for side in (-1, 1):
        c.part(box(side * w - 0.12, -0.1, side * w + 0.2 * side + 0.12, 0.2, round_=0.6), k.second)
    c.part(box(-w, -0.62, w, 0.66, round_=bend), None)
    for side in (-1, 1):
        c.part(ellipse(side * w * 0.46, -0.22, eye, eye), PAPER)
        c.fill(ellipse(side * w * 0.46, -0.2, eye * 0.5, eye * 0.5), INK)
    c.part(box(-w * 0.55, 0.14, w * 0.55, 0.36), PAPER)
    for x in np.linspace(-w * 0.3, w * 0.3, 3):
        c.line(polygon((float(x), 0.14), (float(x), 0.36)), INK, 0.04)
    wheel = k.span(3, 0.2, 0.3)
    for side in (-1, 1):
        c.part(ellipse(side * w * 0.62, 0.72, wheel, wheel), INK)
        c.fill(ellipse(side * w * 0.62, 0.72, wheel * 0.45, wheel * 0.45), k.second)
    return Anchors()


def cartoon(c: Canvas, k: Look) -> Anchors:
    head, horn = k.span(0, 0.56, 0.7), k.span(1, 0.18, 0.34)
    y = -0.2
    for side in (-1, 1):
        c.line(polygon((side * 0.2, 0.4), (side * 0.26, 0.84)), INK, 0.1)
        c.part(ellipse(side * 0.34, 0.88, 0.2, 0.11), k.second)
        c.line(polygon((side * 0.3, 0.3), (side * 0.78, 0.56)), INK, 0.09)
        c.part(ellipse(side * 0.82, 0.58, 0.14, 0.14), PAPER)
        c.part(
            polygon(
                (side * head * 0.3, y - head * 0.75),
                (side * head * 0.95, y - head * 0.7 - horn),
                (side * head * 0.8, y - head * 0.4),
            ),
            k.second,
        )
    c.part(ellipse(0, y, head, head * 0.94), None)
    eye = k.span(2, 0.16, 0.23)
    for side in (-1, 1):
        c.part(ellipse(side * 0.24, y - 0.16, eye, eye * 1.3), PAPER)
        c.fill(ellipse(side * 0.2, y - 0.12, 0.08, 0.11), INK)
    t = np.linspace(0, np.pi, 14)
    wide = k.span(3, 0.3, 0.44)
    c.part(np.stack([wide * np.cos(t), y + 0.16 + 0.3 * np.sin(t)], axis=1), PAPER)
    c.line(polygon((-wide * 0.9, y + 0.27), (wide * 0.9, y + 0.27)), INK, 0.04)
    return Anchors()


NOUNS: dict[str, Callable[[Canvas, Look], Anchors]] = {
    "backpack": backpack,
    "boot": boot,
    "bowl": bowl,
    "can": can,
    "candle": candle,
    "cartoon": cartoon,
    "cat": cat,
    "clock": clock,
    "dog": dog,
    "glasses": glasses,
    "sneaker": sneaker,
    "stuffed animal": stuffed_animal,
    "teapot": teapot,
    "toy": toy,
    "vase": vase,
}
LIVE = ("cat", "dog")
