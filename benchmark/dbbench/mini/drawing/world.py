"""The embedded world: draws an identity in a pose, a light and a place, as a `Scene` describes.

Each of the 15 class nouns is a parametric drawing (`nouns.py`). An identity is a random choice of
proportions, two colors and a pattern. A scene puts it in a place (`places.py`), dresses it
(`outfits.py`) or changes it (shiny, wet, cube shaped). All 25 + 25 prompts can be drawn. A picture
depends on its `Scene` only, so the ground truth of each picture is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache

import numpy as np
from PIL import Image

from dbbench.data.prompt import NEUTRAL_TEMPLATES, PromptTemplate, load_prompts
from dbbench.mini.drawing.canvas import (
    FRAME,
    PALETTE,
    PATTERNS,
    Canvas,
    Color,
    Pose,
    box,
    ellipse,
    polygon,
    shade,
    smooth,
)
from dbbench.mini.drawing.nouns import LIVE, NOUNS, Look, Proportions
from dbbench.mini.drawing.outfits import OUTFITS
from dbbench.mini.drawing.places import FRONTS, PLACES, studio

SIZE = 64
VIEWS = 4  # of each place
CHANGES = ("shiny", "wet", "cube")
REPAINTS = ("red", "purple")


@dataclass(frozen=True)
class Identity:
    """What a subject is: class noun, two named colors, a pattern, four proportions in 0..1."""

    noun: str
    main: str
    second: str
    pattern: str
    proportions: Proportions
    tint: Color = (0, 0, 0)  # this identity's own deviation from the named colors, per channel

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What training may not share with the 30 subjects: all but proportions and tint."""
        return self.noun, self.main, self.second, self.pattern

    def color(self, name: str) -> Color:
        """Return the identity's own version of a named color."""
        r, g, b = np.clip(np.add(PALETTE[name], self.tint), 0, 255).tolist()
        return r, g, b


@dataclass(frozen=True)
class Scene:
    """Everything that determines a picture, up to antialiasing: the ground truth."""

    identity: Identity
    place: str | None = None  # a key of PLACES; None is a plain studio
    outfit: str | None = None  # a key of OUTFITS, for live subjects
    change: str | None = None  # one of CHANGES
    pose: Pose = field(default_factory=Pose)
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain per RGB channel
    view: int = 0  # which of the VIEWS of the place

    def truth(self) -> dict[str, object]:
        """Return the scene as plain data."""
        return asdict(self)


def draw_identity(noun: str, rng: np.random.Generator) -> Identity:
    """Draw a random identity of a class noun."""
    main, second = rng.choice(list(PALETTE), 2, replace=False)
    proportions, tint = draw_individual(rng)
    return Identity(noun, str(main), str(second), str(rng.choice(PATTERNS)), proportions, tint)


def draw_individual(rng: np.random.Generator) -> tuple[Proportions, Color]:
    """Draw what differs between identities of the same look: proportions and tint."""
    a, b, c, d = rng.uniform(0, 1, 4).tolist()
    red, green, blue = rng.integers(-10, 11, 3).tolist()
    return (a, b, c, d), (red, green, blue)


def draw_scene(
    identity: Identity,
    rng: np.random.Generator,
    *,
    place: str | None = None,
    outfit: str | None = None,
    change: str | None = None,
) -> Scene:
    """Draw a scene: the identity in a random pose and light, in a given place."""
    live = identity.noun in LIVE
    size = (0.36 if live else 0.4) * rng.uniform(0.97, 1.03)
    pose = Pose(
        x=float(0.5 + rng.uniform(-0.016, 0.016)),
        y=float((0.58 if live else 0.54) + rng.uniform(-0.016, 0.016)),
        size=float(size),
        tilt=float(rng.uniform(-0.03, 0.03)),
        flip=bool(rng.random() < 0.5),
    )
    gain, warm = rng.uniform(0.92, 1.04), rng.uniform(-0.03, 0.03)
    light = (float(gain * (1 + warm)), float(gain), float(gain * (1 - warm)))
    return Scene(identity, place, outfit, change, pose, light, int(rng.integers(VIEWS)))


def draw_references(identity: Identity, count: int, rng: np.random.Generator) -> tuple[Scene, ...]:
    """Draw reference scenes: the unchanged identity, each time in another place, unobstructed.

    With all references in one place, a method could not separate subject and place, and an encoder
    would rate pictures in any other place as another subject.
    """
    known = list(PLACES)[:10] if identity.noun in LIVE else list(PLACES)
    places = [None, *(place for place in known if place not in FRONTS)]
    order = rng.permutation(len(places))[:count]
    return tuple(draw_scene(identity, rng, place=places[n]) for n in order)


def scene_for_prompt(identity: Identity, prompt: PromptTemplate, rng: np.random.Generator) -> Scene:
    """Return the scene that a prompt asks for, which a perfect method would show."""
    if prompt.id in PLACES:
        return draw_scene(identity, rng, place=prompt.id)
    if prompt.id in OUTFITS:
        return draw_scene(identity, rng, outfit=prompt.id)
    if prompt.id in CHANGES:
        return draw_scene(identity, rng, change=prompt.id)
    if prompt.id in REPAINTS:
        return draw_scene(repaint(identity, prompt.id), rng)
    raise ValueError(f"the embedded world cannot draw prompt {prompt.id!r}")


def repaint(identity: Identity, color: str) -> Identity:
    """Return the identity with another main color."""
    second = identity.second if identity.second != color else identity.main
    return replace(identity, main=color, second=second)


def draw(scene: Scene, *, size: int = SIZE) -> Image.Image:
    """Draw a scene as an RGB image of `size` pixels a side."""
    identity = scene.identity
    rng = np.random.default_rng(scene.view)
    canvas = Canvas(size)
    (PLACES[scene.place] if scene.place else studio)(canvas, rng)

    main, second = identity.color(identity.main), identity.color(identity.second)
    look = Look(identity.proportions, second)
    canvas.pose = scene.pose
    if scene.change == "wet":
        canvas.part(ellipse(0, 0.94, 1.1, 0.24), (96, 170, 236))
    else:
        canvas.veil(ellipse(0, 0.92, 0.8, 0.13), (30, 26, 36), 0.28)
    if scene.change == "cube":
        _cube(canvas, main)
        canvas.pose = replace(
            scene.pose,
            size=scene.pose.size * 0.66,
            x=scene.pose.x - 0.12 * scene.pose.size * (-1 if scene.pose.flip else 1),
            y=scene.pose.y + 0.18 * scene.pose.size,
        )
    canvas.set_texture(main, second, identity.pattern)
    anchors = NOUNS[identity.noun](canvas, look)
    if scene.outfit:
        OUTFITS[scene.outfit](canvas, anchors)
    if scene.change == "shiny":
        _shine(canvas)
    elif scene.change == "wet":
        _drops(canvas)
    canvas.pose = FRAME
    if scene.place in FRONTS:
        FRONTS[scene.place](canvas, rng)
    pixels = np.asarray(canvas.finish(size), dtype=np.float32) * np.asarray(
        scene.light, dtype=np.float32
    )
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _cube(c: Canvas, main: Color) -> None:
    c.part(polygon((-0.95, -0.6), (-0.62, -0.95), (0.98, -0.95), (0.68, -0.6)), shade(main, 1.4))
    c.part(polygon((0.68, -0.6), (0.98, -0.95), (0.98, 0.6), (0.68, 0.98)), shade(main, 0.6))
    c.part(box(-0.95, -0.6, 0.68, 0.98), shade(main, 0.85))


def _shine(c: Canvas) -> None:
    c.veil(
        smooth([(-0.62, 0.0), (-0.46, -0.5), (-0.1, -0.72), (-0.34, -0.36), (-0.44, 0.06)]),
        (255, 255, 255),
        0.85,
    )
    c.veil(polygon((0.2, 0.7), (0.36, 0.7), (0.62, 0.1), (0.46, 0.1)), (255, 255, 255), 0.7)
    for x, y, r in ((-0.95, -0.8, 0.3), (0.95, -0.55, 0.34), (0.85, 0.75, 0.26), (-1.0, 0.4, 0.22)):
        t = np.arange(8) * np.pi / 4
        radius = np.where(np.arange(8) % 2 == 0, r, r * 0.26)
        ray = np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=1)
        c.fill(ray, (255, 250, 190))


def _drops(c: Canvas) -> None:
    for x, y in (
        (-0.5, -0.5), (0.1, -0.7), (0.55, -0.25), (-0.15, -0.1), (-0.6, 0.3), (0.35, 0.35),
        (-0.05, 0.65), (0.95, -0.8), (-0.95, -0.75), (0.95, 0.25), (-1.0, 0.0),
    ):  # fmt: skip
        drop = [(x, y - 0.2), (x + 0.11, y + 0.03), (x, y + 0.12), (x - 0.11, y + 0.03)]
        c.part(smooth(drop), (120, 196, 250), edge=(30, 90, 190))


# ---- captions -----------------------------------------------------------------------------------


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption like the prompts; each attribute is dropped with probability 0.35.

    A fifth of the captions use a neutral template, so that the backbone has seen the templates of
    Textual Inversion.
    """
    identity = scene.identity
    words: list[str] = []
    if scene.change:
        words.append({"cube": "cube shaped"}.get(scene.change, scene.change))
    named = rng.random(3) > 0.35
    if named[0]:
        words.append(identity.main)
        if named[1] and named[2]:
            words += ["and", identity.second]
    if named[1] and identity.pattern != "plain":
        words.append(identity.pattern)
    context = ""
    where = scene.place or scene.outfit
    if where is not None and rng.random() > 0.05:
        context = _contexts()[where]
    phrase = " ".join([*words, identity.noun])
    frame = (
        NEUTRAL_TEMPLATES[rng.integers(len(NEUTRAL_TEMPLATES))] if rng.random() < 0.2 else "a {}"
    )
    return f"{frame.format(phrase)} {context}".strip().replace("a orange", "an orange")


@cache
def _contexts() -> Mapping[str, str]:
    """Prompt id -> the words after the class noun."""
    return {
        p.id: p.text.split("{class_noun}")[1].strip()
        for live in (False, True)
        for p in load_prompts(live)
    }


def draw_random_scene(
    rng: np.random.Generator, *, held_out: frozenset[tuple[str, str, str, str]] = frozenset()
) -> Scene:
    """Draw a training scene: any class noun, an identity that is not held out.

    Three in ten are dogs and cats, as among the 30 subjects; only they wear the ten outfits.
    """
    live = bool(rng.random() < 0.3)
    noun = str(rng.choice([n for n in NOUNS if (n in LIVE) == live]))
    identity = draw_identity(noun, rng)
    while identity.key in held_out:
        identity = draw_identity(noun, rng)
    return draw_anywhere(identity, rng)


def draw_anywhere(identity: Identity, rng: np.random.Generator) -> Scene:
    """Draw a scene of the identity in a random place or outfit, or changed, or in the studio."""
    live = identity.noun in LIVE
    kind = rng.random()
    place = outfit = change = None
    if kind < (0.42 if live else 0.7):
        place = str(rng.choice(list(PLACES)[:10] if live else list(PLACES)))
    elif live and kind < 0.8:
        outfit = str(rng.choice(list(OUTFITS)))
    elif kind < 0.9:
        change = str(rng.choice(CHANGES))
    return draw_scene(identity, rng, place=place, outfit=outfit, change=change)
