"""Drawn methods: scenes that a method with a known quality would show; `truth.py` draws them.

Nothing is trained or sampled. Every image is drawn from a scene, so its identity error, and whether
it shows its prompt, are known. Metrics are compared with this truth.
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
"""The parts of an identity; each is a fifth of the identity error."""


@dataclass(frozen=True)
class DrawnImage:
    """One image to draw, and its truth."""

    kind: str
    """The name of its drawn method: a key of KINDS, or one of CLASS_KINDS."""
    subject: str
    prompt: str
    number: int
    scene: Scene
    errors: Mapping[str, float]
    """The error of each of PARTS, in 0..1."""

    @property
    def identity_error(self) -> float:
        """The mean error of the parts; 0 is the subject itself."""
        return float(np.mean(list(self.errors.values())))

    @property
    def shows_prompt(self) -> bool:
        """Whether the image has the prompt's place, outfit, change or color."""
        if self.prompt in REPAINTS:
            return self.scene.identity.main == self.prompt
        return self.prompt in (self.scene.place, self.scene.outfit, self.scene.change)


@dataclass(frozen=True)
class PromptRequest:
    """The input of a drawn method: one prompt of one subject."""

    subject: str
    identity: Identity
    prompt: PromptTemplate
    prompts: Sequence[PromptTemplate]
    references: Sequence[Scene]

    def rng(self, *words: str | int) -> np.random.Generator:
        """Return a generator that depends only on the subject, the prompt and the words."""
        return np.random.default_rng(stable_seed("drawn", self.subject, self.prompt.id, *words))


DrawnMethod = Callable[[PromptRequest, int], Scene]
"""Request and image number -> scene."""


def perfect(request: PromptRequest, number: int) -> Scene:
    """The subject as prompted."""
    return scene_for_prompt(request.identity, request.prompt, request.rng("perfect", number))


def wrong_place(request: PromptRequest, number: int) -> Scene:
    """The subject in the place of another prompt."""
    rng = request.rng("wrong", number)
    others = [p for p in request.prompts if p.id in PLACES and p.id != request.prompt.id]
    return scene_for_prompt(request.identity, others[rng.integers(len(others))], rng)


def other_identity(request: PromptRequest, number: int) -> Scene:
    """Another object of the same class noun, as prompted."""
    return perfect(replace(request, identity=_other(request, request.identity.noun)), number)


def other_identity_wrong_place(request: PromptRequest, number: int) -> Scene:
    """Another object of the same class noun in the place of another prompt."""
    return wrong_place(replace(request, identity=_other(request, request.identity.noun)), number)


def other_class(request: PromptRequest, number: int) -> Scene:
    """An object of another class noun, as prompted."""
    return perfect(replace(request, identity=_other(request, _noun(request))), number)


def other_class_wrong_place(request: PromptRequest, number: int) -> Scene:
    """An object of another class noun in the place of another prompt."""
    return wrong_place(replace(request, identity=_other(request, _noun(request))), number)


def copied(request: PromptRequest, number: int) -> Scene:
    """A copy of a reference, for any prompt: slightly moved and in other light."""
    rng = request.rng("copied", number)
    scene = request.references[int(rng.integers(len(request.references)))]
    x, y = rng.uniform(-0.008, 0.008, 2)
    pose = replace(scene.pose, x=scene.pose.x + float(x), y=scene.pose.y + float(y))
    return _relit(replace(scene, pose=pose), rng)


def collapsed(request: PromptRequest, number: int) -> Scene:
    """The prompt's first image repeated, in other light."""
    return _relit(perfect(request, 0), request.rng("collapsed", number))


def entangled(request: PromptRequest, number: int) -> Scene:
    """The subject in the color of its place; for a prompt without a place, as prompted."""
    scene = perfect(request, number)
    if scene.place is None:
        return scene
    main = next(c for c in _place_colors(scene.place) if c != request.identity.main)
    second = request.identity.second if request.identity.second != main else request.identity.main
    return replace(scene, identity=replace(request.identity, main=main, second=second))


def hallucinated(request: PromptRequest, number: int) -> Scene:
    """The subject with a random pattern and second color that no reference shows."""
    scene, rng = perfect(request, number), request.rng("hallucinated", number)
    own = scene.identity
    pattern = str(rng.choice([p for p in PATTERNS if p not in (own.pattern, "plain")]))
    second = str(rng.choice([c for c in PALETTE if c not in (own.main, own.second)]))
    return replace(scene, identity=replace(own, pattern=pattern, second=second))


def altered(request: PromptRequest, number: int) -> Scene:
    """As prompted, but each part of the identity may come from another identity."""
    rng = request.rng("altered", number)
    own, other = request.identity, _other(request, request.identity.noun, number)
    swapped = rng.random(4) < 0.4
    if rng.random() < 0.15:
        own, swapped[3] = replace(own, noun=_noun(request)), True
    if swapped[0]:
        own = replace(own, main=other.main)
    if swapped[1]:
        own = replace(own, second=other.second)
    if swapped[2]:
        own = replace(own, pattern=other.pattern)
    if swapped[3]:
        own = replace(own, proportions=other.proportions)
    return scene_for_prompt(own, request.prompt, request.rng("altered scene", number))


KINDS: Mapping[str, DrawnMethod] = {
    kind.__name__.replace("_", " "): kind
    for kind in (
        perfect, wrong_place, other_identity, other_identity_wrong_place, other_class,
        other_class_wrong_place, copied, collapsed, entangled, hallucinated, altered,
    )
}  # fmt: skip
CLASS_KINDS = ("class kept", "class drifted")
"""Images of the class noun alone: other objects of the class, or always the subject."""


def drawn_images(
    kind: str, subject: Subject, *, prompts: int | None, images: int
) -> list[DrawnImage]:
    """Return a drawn method's images of a subject: `images` for each of the first prompts."""
    identity = identities()[subject.name]
    if kind in CLASS_KINDS:
        return list(_class_images(kind, subject, identity, images))
    templates = MiniWorld().prompts(subject)
    references = reference_scenes(subject)
    found = []
    for prompt in templates[:prompts]:
        request = PromptRequest(subject.name, identity, prompt, templates, references)
        for number in range(images):
            scene = KINDS[kind](request, number)
            errors = identity_errors(identity, scene.identity)
            if prompt.id in REPAINTS:
                # For a color prompt, both the new and the original color count as right.
                painted = identity_errors(repaint(identity, prompt.id), scene.identity)
                errors = min(errors, painted, key=lambda each: sum(each.values()))
            found.append(DrawnImage(kind, subject.name, prompt.id, number, scene, errors))
    return found


def identity_errors(wanted: Identity, shown: Identity) -> dict[str, float]:
    """Return the error of each of PARTS in 0..1; for colors and proportions it is a distance.

    Proportions of another class noun are not comparable; their error is 1.
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


def _class_images(
    kind: str, subject: Subject, identity: Identity, images: int
) -> Iterator[DrawnImage]:
    for number in range(images):
        rng = np.random.default_rng(stable_seed("drawn", kind, subject.name, number))
        shown = identity if kind == "class drifted" else draw_identity(identity.noun, rng)
        errors = identity_errors(identity, shown)
        yield DrawnImage(kind, subject.name, CLASS_PROMPT, number, draw_scene(shown, rng), errors)


def _other(request: PromptRequest, noun: str, number: int = 0) -> Identity:
    """Return another identity, the same one for all prompts of a subject."""
    rng = np.random.default_rng(stable_seed("drawn other", request.subject, noun, number))
    while True:
        found = draw_identity(noun, rng)
        if found.key != request.identity.key:
            return found


def _noun(request: PromptRequest) -> str:
    """Return another class noun, living if the subject is: only living subjects get outfits."""
    own = request.identity.noun
    nouns = [n for n in NOUNS if n != own and (n in LIVE) == (own in LIVE)]
    return str(np.random.default_rng(stable_seed("drawn noun", request.subject)).choice(nouns))


def _relit(scene: Scene, rng: np.random.Generator) -> Scene:
    r, g, b = np.multiply(scene.light, rng.uniform(0.97, 1.03))
    return replace(scene, light=(float(r), float(g), float(b)))


@cache
def _place_colors(place: str) -> tuple[str, ...]:
    """Return the palette's names, sorted by distance to the mean color of a place."""
    canvas = Canvas(SIZE)
    PLACES[place](canvas, np.random.default_rng(0))
    mean = np.asarray(canvas.finish(SIZE), dtype=float).mean(axis=(0, 1))
    return tuple(sorted(PALETTE, key=lambda name: float(np.linalg.norm(mean - PALETTE[name]))))


def _color_distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)) / np.linalg.norm([255, 255, 255]))
