"""The twenty places of the embedded world, and a plain studio for captions without a place.

A place draws the background; some also draw a foreground in front of the subject (water, leaves).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dbbench.mini.drawing.canvas import Canvas, Color, box, ellipse, mix, polygon, shade

SKY: Color = (150, 206, 246)
DrawPlace = Callable[[Canvas, np.random.Generator], None]


def _ground(c: Canvas, top: Color, bottom: Color, horizon: float = 0.1) -> None:
    c.fill(box(-1, -1, 1, 1), top)
    c.fill(box(-1, horizon, 1, 1), bottom)


def _side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _leaf(c: Canvas, x: float, y: float, length: float, angle: float, color: Color) -> None:
    tip = np.array([np.cos(angle), np.sin(angle)]) * length
    wide = np.array([-np.sin(angle), np.cos(angle)]) * length * 0.28
    middle = tip * 0.5
    c.fill(np.array([[0, 0], middle + wide, tip, middle - wide]) + np.array([x, y]), color)


def studio(c: Canvas, rng: np.random.Generator) -> None:
    walls: tuple[Color, ...] = (
        (226, 218, 204), (204, 216, 222), (222, 206, 206), (208, 220, 204), (214, 208, 226),
    )  # fmt: skip
    wall = walls[rng.integers(len(walls))]
    _ground(c, wall, shade(wall, 0.82), 0.3 + 0.1 * rng.random())


def jungle(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (30, 96, 48), (52, 74, 34), 0.5)
    for x in (-0.95, -0.55, 0.6, 0.95):
        x += 0.06 * rng.standard_normal()
        c.fill(box(x - 0.07, -1, x + 0.07, 0.6), (86, 62, 38))
    for _ in range(12):
        green: Color = ((40, 140, 60), (84, 170, 60), (24, 112, 64))[rng.integers(3)]
        _leaf(c, rng.uniform(-1, 1), -1.05, rng.uniform(0.5, 0.9), rng.uniform(0.5, 2.6), green)


def jungle_front(c: Canvas, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        for angle in (-2.3, -1.8, -1.2):
            turn = angle if side > 0 else -np.pi - angle
            _leaf(c, side * 0.98, 1.05, rng.uniform(0.55, 0.75), turn, (64, 176, 70))


def snow(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (172, 192, 220), (246, 250, 254), 0.15)
    for x in (-0.75, 0.75):
        x += 0.1 * rng.standard_normal()
        for y in (-0.5, -0.2, 0.1):
            half = 0.32 + 0.14 * (y + 0.5)
            c.fill(polygon((x, y - 0.34), (x + half, y + 0.1), (x - half, y + 0.1)), (44, 92, 84))
            c.fill(
                polygon((x, y - 0.34), (x + half * 0.4, y - 0.16), (x - half * 0.4, y - 0.16)),
                (250, 252, 255),
            )
    c.fill(ellipse(0, 0.75, 1.4, 0.6), (246, 250, 254))


def snow_front(c: Canvas, rng: np.random.Generator) -> None:
    for _ in range(22):
        x, y = rng.uniform(-1, 1, 2)
        c.fill(ellipse(x, y, 0.04, 0.04), (255, 255, 255))


def beach(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, SKY, (242, 218, 160), 0.2)
    c.fill(box(-1, -0.25, 1, 0.22), (44, 144, 200))
    c.fill(box(-1, 0.16, 1, 0.26), (250, 252, 250))
    x = 0.72 * _side(rng)
    c.fill(ellipse(x, -0.72, 0.18, 0.18), (255, 226, 90))
    for _ in range(6):
        c.fill(ellipse(rng.uniform(-1, 1), rng.uniform(0.45, 1), 0.05, 0.03), (214, 176, 116))


def cobblestone_street(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (198, 180, 158), (108, 106, 110), 0.0)
    for x in (-0.8, 0.8):
        c.fill(box(x - 0.14, -0.75, x + 0.14, -0.25), (94, 78, 74))
    for row, y in enumerate(np.arange(0.1, 1.1, 0.22)):
        for x in np.arange(-1.05, 1.2, 0.3):
            stone = shade((158, 156, 158), rng.uniform(0.88, 1.1))
            c.fill(ellipse(x + (0.15 if row % 2 else 0), y, 0.13, 0.09), stone)


def pink_fabric(c: Canvas, rng: np.random.Generator) -> None:
    pink: Color = (246, 128, 176)
    _ground(c, shade(pink, 1.25), pink, -0.1)
    for x in np.arange(-1.1, 1.3, 0.36):
        bend = 0.12 * rng.standard_normal()
        fold = polygon((x, -1), (x + 0.09, -1), (x + 0.2 + bend, 1), (x + 0.05 + bend, 1))
        c.fill(fold, shade(pink, 0.82))


def wooden_floor(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (232, 224, 208), (184, 122, 66), -0.1)
    for i, y in enumerate((-0.1, 0.1, 0.36, 0.68)):
        high = (0.2, 0.26, 0.32, 0.4)[i]
        c.fill(box(-1, y, 1, y + high), shade((184, 122, 66), rng.uniform(0.9, 1.12)))
        c.fill(box(-1, y, 1, y + 0.04), (112, 68, 36))
        x = rng.uniform(-0.9, 0.9)
        c.fill(box(x, y, x + 0.04, y + high), (112, 68, 36))


def city(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (188, 212, 236), (130, 134, 140), 0.55)
    for x in np.arange(-1.0, 1.0, 0.34):
        top = rng.uniform(-0.9, -0.3)
        wall = shade((92, 106, 132), rng.uniform(0.8, 1.15))
        c.fill(box(x, top, x + 0.31, 0.56), wall)
        for y in np.arange(top + 0.1, 0.45, 0.22):
            for dx in (0.05, 0.18):
                c.fill(box(x + dx, y, x + dx + 0.08, y + 0.1), (252, 232, 146))


def mountain(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, SKY, (110, 168, 84), 0.3)
    for x in (-0.62, 0.62):
        x += 0.1 * rng.standard_normal()
        peak = rng.uniform(-0.95, -0.78)
        c.fill(polygon((x, peak), (x + 0.8, 0.32), (x - 0.8, 0.32)), (112, 110, 124))
        c.fill(
            polygon((x, peak), (x + 0.26, peak + 0.4), (x, peak + 0.3), (x - 0.26, peak + 0.4)),
            (252, 252, 255),
        )


def blue_house(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (214, 234, 246), (120, 182, 92), 0.4)
    c.fill(box(-0.86, -0.45, 0.86, 0.5), (44, 112, 214))
    c.fill(polygon((-1.0, -0.42), (0, -1.0), (1.0, -0.42)), (90, 60, 60))
    for x in (-0.66, 0.66):
        c.fill(box(x - 0.15, -0.22, x + 0.15, 0.14), (255, 244, 190))
        c.fill(box(x - 0.02, -0.22, x + 0.02, 0.14), (250, 250, 250))


def purple_rug_forest(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (92, 140, 92), (98, 122, 58), 0.25)
    for x in (-0.9, -0.5, 0.5, 0.9):
        x += 0.05 * rng.standard_normal()
        c.fill(box(x - 0.08, -0.5, x + 0.08, 0.35), (96, 66, 42))
        c.fill(ellipse(x, -0.72, 0.3, 0.36), (32, 104, 52))
    rug: Color = (142, 62, 186)
    c.fill(polygon((-0.7, 0.32), (0.7, 0.32), (1.0, 1.0), (-1.0, 1.0)), shade(rug, 0.78))
    c.fill(polygon((-0.62, 0.4), (0.62, 0.4), (0.86, 0.94), (-0.86, 0.94)), rug)


def wheat_field(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (176, 216, 246), (222, 176, 62), -0.2)
    for x in np.arange(-1.0, 1.05, 0.15):
        x += 0.03 * rng.standard_normal()
        c.line(polygon((x, 1), (x, -0.2)), (184, 136, 40), 0.04)
        c.fill(ellipse(x, -0.3, 0.055, 0.17), (246, 206, 88))


def autumn_tree(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (228, 226, 206), (170, 136, 70), 0.45)
    x = 0.62 * _side(rng)
    c.fill(box(x - 0.12, -0.5, x + 0.12, 0.6), (96, 62, 40))
    for dx, y, color in (
        (-0.34, -0.55, (228, 120, 34)),
        (0.34, -0.5, (206, 66, 34)),
        (0.0, -0.8, (244, 172, 46)),
    ):
        c.fill(ellipse(x + dx, y, 0.42, 0.36), color)
    for _ in range(14):
        color = ((228, 120, 34), (206, 66, 34), (244, 172, 46))[rng.integers(3)]
        c.fill(ellipse(rng.uniform(-1, 1), rng.uniform(-0.2, 1), 0.06, 0.045), color)


def eiffel_tower(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (246, 214, 190), (124, 166, 96), 0.5)
    x = 0.6 * _side(rng)
    iron: Color = (106, 82, 74)
    for side in (-1, 1):
        leg = [(x + side * 0.38, 0.55), (x + side * 0.24, 0.55), (x + side * 0.04, -0.5)]
        c.fill(polygon(*leg, (x, -1.0), (x + side * 0.1, -0.5)), iron)
    for y, half in ((0.1, 0.3), (-0.3, 0.18)):
        c.fill(box(x - half, y, x + half, y + 0.09), iron)


def water(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (182, 224, 246), (40, 124, 204), 0.0)
    _waves(c, rng, (116, 190, 240), 0.08, 0.5)


def water_front(c: Canvas, rng: np.random.Generator) -> None:
    _surface(c, (40, 124, 204))
    _waves(c, rng, (116, 190, 240), 0.66, 1.0)


def milk(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (252, 226, 180), (250, 248, 240), 0.0)
    _waves(c, rng, (224, 214, 200), 0.08, 0.5)


def milk_front(c: Canvas, rng: np.random.Generator) -> None:
    _surface(c, (250, 248, 240))
    _waves(c, rng, (224, 214, 200), 0.66, 1.0)


def _waves(c: Canvas, rng: np.random.Generator, color: Color, low: float, high: float) -> None:
    for y in np.arange(low, high, 0.16):
        for x in np.arange(-1.0, 1.0, 0.5):
            x += rng.uniform(-0.1, 0.1)
            c.line(
                np.array([[x, y], [x + 0.1, y - 0.05], [x + 0.2, y], [x + 0.3, y - 0.05]]),
                color,
                0.05,
            )


def _surface(c: Canvas, color: Color) -> None:
    x = np.linspace(-1, 1, 25)
    top = np.stack([x, 0.58 + 0.03 * np.sin(x * 12)], axis=1)
    c.veil(np.concatenate([top, [[1, 1], [-1, 1]]]), color, 0.88)


def sunflowers(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (182, 224, 250), (96, 180, 72), -0.1)
    for x in (-0.88, -0.62, 0.62, 0.88):
        _sunflower(c, x + 0.04 * rng.standard_normal(), rng.uniform(-0.55, -0.2), 0.2)


def sunflowers_front(c: Canvas, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        _sunflower(c, side * rng.uniform(0.78, 0.86), rng.uniform(0.6, 0.74), 0.24)


def _sunflower(c: Canvas, x: float, y: float, r: float) -> None:
    c.line(polygon((x, y), (x, y + 0.6)), (52, 124, 46), 0.07)
    for t in np.arange(0, 2 * np.pi, np.pi / 4):
        c.fill(
            ellipse(x + r * 0.66 * np.cos(t), y + r * 0.66 * np.sin(t), r * 0.4, r * 0.4),
            (255, 208, 40),
        )
    c.fill(ellipse(x, y, r * 0.5, r * 0.5), (104, 62, 30))


def mirror(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (96, 90, 104), (70, 64, 76), 0.2)
    c.fill(ellipse(0, 0.62, 0.98, 0.4), (214, 176, 84))
    c.fill(ellipse(0, 0.62, 0.88, 0.32), (196, 228, 240))
    for x in (-0.62, 0.5):
        x += 0.06 * rng.standard_normal()
        c.fill(
            polygon((x, 0.76), (x + 0.12, 0.76), (x + 0.3, 0.42), (x + 0.2, 0.42)), (244, 252, 255)
        )


def crowded_sidewalk(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (206, 200, 194), (176, 174, 170), 0.3)
    coats: tuple[Color, ...] = ((170, 54, 60), (52, 84, 140), (60, 120, 84), (196, 148, 60))
    for x in np.arange(-0.9, 1.0, 0.36):
        x += 0.05 * rng.standard_normal()
        c.fill(box(x - 0.13, -0.5, x + 0.13, 0.3, round_=0.3), coats[rng.integers(len(coats))])
        c.fill(ellipse(x, -0.64, 0.1, 0.12), mix((240, 204, 172), (120, 80, 56), rng.random()))
    for y in (0.55, 0.8):
        c.fill(box(-1, y, 1, y + 0.03), (128, 126, 124))
    for x in (-0.7, 0.0, 0.7):
        c.fill(
            polygon((x * 0.8, 0.3), (x * 0.8 + 0.03, 0.3), (x * 1.2 + 0.04, 1), (x * 1.2, 1)),
            (128, 126, 124),
        )


def dirt_road(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, SKY, (118, 168, 76), -0.05)
    c.fill(polygon((-0.22, -0.05), (0.22, -0.05), (0.95, 1), (-0.95, 1)), (168, 120, 76))
    for _ in range(10):
        y = rng.uniform(0.2, 1)
        c.fill(ellipse(rng.uniform(-0.6, 0.6) * (0.3 + y * 0.6), y, 0.06, 0.04), (128, 88, 54))
    c.fill(ellipse(0.6 * _side(rng), -0.68, 0.34, 0.14), (252, 252, 255))


def white_rug(c: Canvas, rng: np.random.Generator) -> None:
    _ground(c, (150, 172, 160), (118, 82, 62), 0.15)
    rug: Color = (248, 246, 240)
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    wobble = 1 + 0.05 * np.sin(14 * t + rng.uniform(0, 6))
    c.fill(
        np.stack([0.96 * wobble * np.cos(t), 0.66 + 0.36 * wobble * np.sin(t)], axis=1),
        shade(rug, 0.86),
    )
    c.fill(ellipse(0, 0.64, 0.86, 0.29), rug)


PLACES: dict[str, DrawPlace] = {
    "jungle": jungle,
    "snow": snow,
    "beach": beach,
    "cobblestone-street": cobblestone_street,
    "pink-fabric": pink_fabric,
    "wooden-floor": wooden_floor,
    "city": city,
    "mountain": mountain,
    "blue-house": blue_house,
    "purple-rug-forest": purple_rug_forest,
    "wheat-field": wheat_field,
    "autumn-tree": autumn_tree,
    "eiffel-tower": eiffel_tower,
    "water": water,
    "milk": milk,
    "sunflowers": sunflowers,
    "mirror": mirror,
    "crowded-sidewalk": crowded_sidewalk,
    "dirt-road": dirt_road,
    "white-rug": white_rug,
}
FRONTS: dict[str, DrawPlace] = {
    "jungle": jungle_front,
    "snow": snow_front,
    "water": water_front,
    "milk": milk_front,
    "sunflowers": sunflowers_front,
}
