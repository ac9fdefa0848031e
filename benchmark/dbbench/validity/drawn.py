"""Drawn methods: what a method of a known virtue or fault would show, as scenes with their truth.

Nothing is trained or sampled: every picture is drawn from a scene, so that how wrong its identity
is and whether it shows its prompt are known, and a metric can be held against them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from dbbench.data.prompt import PromptTemplate
from dbbench.data.subject import Subject
from dbbench.evaluation.metric import CLASS_PROMPT
from dbbench.mini.drawing.canvas import PALETTE, PATTERNS, Canvas
from dbbench.mini.drawing.nouns import LIVE, NOUNS
from dbbench.mini.drawing.places import PLACES
from dbbench.mini.drawing.world import (
    REPAINTS,
    SIZE,
    Identity,
    Scene,
    draw_identity,
    draw_scene,
    repaint,
    scene_for_prompt,
)
from dbbench.mini.source import MiniWorld, identities, reference_scenes
from dbbench.seeds import stable_seed

PARTS = ("noun", "main", "second", "pattern", "proportions")
"""What an identity is made of; each counts for a fifth of an identity error."""


@dataclass(frozen=True)
class Picture:
    """One picture to draw, and what is known of it."""

    kind: str
    """Which drawn method it belongs to, a key of KINDS."""
    subject: str
    prompt: str
    number: int
    scene: Scene
    errors: Mapping[str, float]
    """How wrong each of PARTS is, in 0..1."""

    @property
    def identity_error(self) -> float:
        """The mean of the parts' errors: 0 is the subject itself."""
        return float(np.mean(list(self.errors.values())))

    @property
    def shows_prompt(self) -> bool:
        """Whether the prompted place, outfit, change or color is there."""
        if self.prompt in REPAINTS:
            return self.scene.identity.main == self.prompt
        return self.prompt in (self.scene.place, self.scene.outfit, self.scene.change)


@dataclass(frozen=True)
class Asked:
    """What a drawn method is asked for: one prompt of one subject."""

    subject: str
    identity: Identity
    prompt: PromptTemplate
    prompts: Sequence[PromptTemplate]
    references: Sequence[Scene]

    def rng(self, *words: str | int) -> np.random.Generator:
        """The same generator for the same words, whatever else is drawn."""
        return np.random.default_rng(stable_seed("drawn", self.subject, self.prompt.id, *words))


Kind = Callable[[Asked, int], Scene]
"""Picture number n of what is asked -> its scene."""


def perfect(asked: Asked, number: int) -> Scene:
    """The subject as the prompt wants it."""
    return scene_for_prompt(asked.identity, asked.prompt, asked.rng("perfect", number))


def wrong_place(asked: Asked, number: int) -> Scene:
    """The subject in the place of another prompt."""
    rng = asked.rng("wrong", number)
    others = [p for p in asked.prompts if p.id in PLACES and p.id != asked.prompt.id]
    return scene_for_prompt(asked.identity, others[rng.integers(len(others))], rng)


def other_identity(asked: Asked, number: int) -> Scene:
    """Another thing of the same class noun, as the prompt wants it."""
    return perfect(replace(asked, identity=_other(asked, asked.identity.noun)), number)


def other_identity_wrong_place(asked: Asked, number: int) -> Scene:
    """Another thing of the same class noun in the place of another prompt."""
    return wrong_place(replace(asked, identity=_other(asked, asked.identity.noun)), number)


def other_class(asked: Asked, number: int) -> Scene:
    """A thing of another class noun, as the prompt wants it."""
    return perfect(replace(asked, identity=_other(asked, _noun(asked))), number)


def other_class_wrong_place(asked: Asked, number: int) -> Scene:
    """A thing of another class noun in the place of another prompt."""
    return wrong_place(replace(asked, identity=_other(asked, _noun(asked))), number)


def copied(asked: Asked, number: int) -> Scene:
    """One of the references given back, whatever the prompt, hardly moved and in other light."""
    rng = asked.rng("copied", number)
    scene = asked.references[int(rng.integers(len(asked.references)))]
    x, y = rng.uniform(-0.008, 0.008, 2)
    pose = replace(scene.pose, x=scene.pose.x + float(x), y=scene.pose.y + float(y))
    return _relit(replace(scene, pose=pose), rng)


def collapsed(asked: Asked, number: int) -> Scene:
    """The prompt's first picture again, in other light."""
    return _relit(perfect(asked, 0), asked.rng("collapsed", number))


def entangled(asked: Asked, number: int) -> Scene:
    """The subject in the color of the place that it stands in; without a place, as it is asked."""
    scene = perfect(asked, number)
    if scene.place is None:
        return scene
    main = next(c for c in _place_colors(scene.place) if c != asked.identity.main)
    second = asked.identity.second if asked.identity.second != main else asked.identity.main
    return replace(scene, identity=replace(asked.identity, main=main, second=second))


def hallucinated(asked: Asked, number: int) -> Scene:
    """The subject with a pattern and a second color that no reference shows, each time others."""
    scene, rng = perfect(asked, number), asked.rng("hallucinated", number)
    own = scene.identity
    pattern = str(rng.choice([p for p in PATTERNS if p not in (own.pattern, "plain")]))
    second = str(rng.choice([c for c in PALETTE if c not in (own.main, own.second)]))
    return replace(scene, identity=replace(own, pattern=pattern, second=second))


def altered(asked: Asked, number: int) -> Scene:
    """As the prompt wants it, but each part of the identity may be another's."""
    rng = asked.rng("altered", number)
    own, other = asked.identity, _other(asked, asked.identity.noun, number)
    swapped = rng.random(4) < 0.4
    if rng.random() < 0.15:
        own, swapped[3] = replace(own, noun=_noun(asked)), True
    if swapped[0]:
        own = replace(own, main=other.main)
    if swapped[1]:
        own = replace(own, second=other.second)
    if swapped[2]:
        own = replace(own, pattern=other.pattern)
    if swapped[3]:
        own = replace(own, proportions=other.proportions)
    return scene_for_prompt(own, asked.prompt, asked.rng("altered scene", number))


KINDS: Mapping[str, Kind] = {
    kind.__name__.replace("_", " "): kind
    for kind in (
        perfect, wrong_place, other_identity, other_identity_wrong_place, other_class,
        other_class_wrong_place, copied, collapsed, entangled, hallucinated, altered,
    )
}  # fmt: skip
CLASS_KINDS = ("class kept", "class drifted")
"""Pictures of the bare class noun: other things of the class, or always the subject."""


def pictures(kind: str, subject: Subject, *, prompts: int | None, images: int) -> list[Picture]:
    """Return what a drawn method shows of a subject: `images` for each of the first prompts."""
    identity = identities()[subject.name]
    if kind in CLASS_KINDS:
        return list(_class_pictures(kind, subject, identity, images))
    templates = MiniWorld().prompts(subject)
    references = reference_scenes(subject)
    found = []
    for prompt in templates[:prompts]:
        asked = Asked(subject.name, identity, prompt, templates, references)
        for number in range(images):
            scene = KINDS[kind](asked, number)
            errors = identity_errors(identity, scene.identity)
            if prompt.id in REPAINTS:
                # Neither repainting what the prompt wants repainted nor leaving it is an error.
                painted = identity_errors(repaint(identity, prompt.id), scene.identity)
                errors = min(errors, painted, key=lambda each: sum(each.values()))
            found.append(Picture(kind, subject.name, prompt.id, number, scene, errors))
    return found


def identity_errors(wanted: Identity, shown: Identity) -> dict[str, float]:
    """Return how wrong each of PARTS is, in 0..1: colors by their distance, proportions by theirs.

    Proportions of another class noun mean something else and are wholly wrong.
    """
    other = wanted.noun != shown.noun
    apart = np.abs(np.subtract(wanted.proportions, shown.proportions)).mean()
    return {
        "noun": float(other),
        "main": _color_distance(wanted.color(wanted.main), shown.color(shown.main)),
        "second": _color_distance(wanted.color(wanted.second), shown.color(shown.second)),
        "pattern": float(wanted.pattern != shown.pattern),
        "proportions": 1.0 if other else float(apart),
    }


def _class_pictures(
    kind: str, subject: Subject, identity: Identity, images: int
) -> Iterator[Picture]:
    for number in range(images):
        rng = np.random.default_rng(stable_seed("drawn", kind, subject.name, number))
        shown = identity if kind == "class drifted" else draw_identity(identity.noun, rng)
        errors = identity_errors(identity, shown)
        yield Picture(kind, subject.name, CLASS_PROMPT, number, draw_scene(shown, rng), errors)


def _other(asked: Asked, noun: str, number: int = 0) -> Identity:
    """Another identity, the same one for all prompts of a subject."""
    rng = np.random.default_rng(stable_seed("drawn other", asked.subject, noun, number))
    while True:
        found = draw_identity(noun, rng)
        if found.key != asked.identity.key:
            return found


def _noun(asked: Asked) -> str:
    """Another class noun of the same kind, since a prompt dresses only what is alive."""
    own = asked.identity.noun
    nouns = [n for n in NOUNS if n != own and (n in LIVE) == (own in LIVE)]
    return str(np.random.default_rng(stable_seed("drawn noun", asked.subject)).choice(nouns))


def _relit(scene: Scene, rng: np.random.Generator) -> Scene:
    r, g, b = np.multiply(scene.light, rng.uniform(0.97, 1.03))
    return replace(scene, light=(float(r), float(g), float(b)))


@cache
def _place_colors(place: str) -> tuple[str, ...]:
    """The palette's names, the nearest to the mean color of a place first."""
    canvas = Canvas(SIZE)
    PLACES[place](canvas, np.random.default_rng(0))
    mean = np.asarray(canvas.finish(SIZE), dtype=float).mean(axis=(0, 1))
    return tuple(sorted(PALETTE, key=lambda name: float(np.linalg.norm(mean - PALETTE[name]))))


def _color_distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm([255, 255, 255]))
