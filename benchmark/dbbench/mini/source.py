"""The embedded world's 30 subjects: drawings for the names, classes and prompts of the photos."""

from __future__ import annotations

import hashlib
import json
from functools import cache

import numpy as np

from dbbench.data.dataset import ReferenceImage
from dbbench.data.prompt import PromptTemplate, load_prompts
from dbbench.data.subject import Subject, load_subjects
from dbbench.mini.drawing.world import (
    Identity,
    Scene,
    draw,
    draw_individual,
    draw_references,
)

DRAWINGS_VERSION = 2  # increase when a drawing changes; it is part of the references' fingerprints

# Subject -> main color, second color, pattern; as in the photos if the name has a color.
_LOOKS: dict[str, tuple[str, str, str]] = {
    "backpack": ("red", "black", "checked"),
    "backpack_dog": ("grey", "pink", "striped"),
    "bear_plushie": ("brown", "white", "spotted"),
    "berry_bowl": ("white", "purple", "striped"),
    "can": ("blue", "orange", "two-tone"),
    "candle": ("white", "green", "striped"),
    "cat": ("orange", "white", "striped"),
    "cat2": ("grey", "black", "two-tone"),
    "clock": ("yellow", "blue", "plain"),
    "colorful_sneaker": ("pink", "green", "checked"),
    "dog": ("brown", "white", "two-tone"),
    "dog2": ("white", "orange", "spotted"),
    "dog3": ("grey", "white", "plain"),
    "dog5": ("black", "brown", "striped"),
    "dog6": ("orange", "brown", "plain"),
    "dog7": ("white", "black", "spotted"),
    "dog8": ("brown", "yellow", "checked"),
    "duck_toy": ("yellow", "orange", "plain"),
    "fancy_boot": ("brown", "pink", "spotted"),
    "grey_sloth_plushie": ("grey", "brown", "plain"),
    "monster_toy": ("green", "purple", "spotted"),
    "pink_sunglasses": ("pink", "blue", "plain"),
    "poop_emoji": ("brown", "pink", "striped"),
    "rc_car": ("blue", "red", "checked"),
    "red_cartoon": ("red", "yellow", "plain"),
    "robot_toy": ("grey", "blue", "two-tone"),
    "shiny_sneaker": ("blue", "yellow", "striped"),
    "teapot": ("green", "white", "spotted"),
    "vase": ("orange", "blue", "striped"),
    "wolf_plushie": ("black", "white", "two-tone"),
}


def _rng(*words: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(words).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


@cache
def identities() -> dict[str, Identity]:
    """The identity of each of the 30 subjects."""
    found = {}
    for subject in load_subjects():
        main, second, pattern = _LOOKS[subject.name]
        proportions, tint = draw_individual(_rng("identity", subject.name))
        found[subject.name] = Identity(subject.class_noun, main, second, pattern, proportions, tint)
    return found


def reference_scenes(subject: Subject) -> tuple[Scene, ...]:
    """The scenes of a subject's reference images, as many as the data set has photographs."""
    rng = _rng("references", subject.name)
    return draw_references(identities()[subject.name], len(subject.photos), rng)


class MiniWorld:
    """The subjects and prompts of the photos as drawings; each image has its scene as truth."""

    name = "mini"

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The subjects in the real data set's order."""
        return load_subjects()

    def prompts(self, subject: Subject) -> tuple[PromptTemplate, ...]:
        """Return the 25 prompts for live subjects or for objects."""
        return load_prompts(subject.live)

    def fingerprint(self, subject: Subject, resolution: int) -> str:
        """Return a SHA-256 that changes whenever the subject's drawings change."""
        scenes = [scene.truth() for scene in reference_scenes(subject)]
        text = json.dumps([DRAWINGS_VERSION, resolution, scenes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def images(self, subject: Subject, resolution: int) -> tuple[ReferenceImage, ...]:
        """Draw the subject's reference images."""
        images = []
        for number, scene in enumerate(reference_scenes(subject)):
            image = draw(scene, size=resolution)
            images.append(
                ReferenceImage(
                    name=f"{number:02d}.png",
                    image=image,
                    sha256=hashlib.sha256(image.tobytes()).hexdigest(),
                    credit="drawn by dbbench (embedded world)",
                    truth=scene.truth(),
                )
            )
        return tuple(images)
