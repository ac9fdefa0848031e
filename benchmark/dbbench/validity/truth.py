"""Truth: images of the embedded world with known truth, encoded and scored like a run's images.

The stage before `measure.py`, which compares the scores with the truth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from dbbench.advance import Advance, silent
from dbbench.data.subject import Subject
from dbbench.evaluation.encoder import Distance, Encoder, UnitVectors, load_encoder
from dbbench.evaluation.metric import CLASS_PROMPT, Metric, Values, evaluate_from, load_metric
from dbbench.mini.drawing.world import SIZE, draw
from dbbench.mini.source import MiniWorld, reference_scenes
from dbbench.suites.suite import load_suite
from dbbench.validity.drawn import CLASS_KINDS, KINDS, PARTS, DrawnImage, drawn_images

METRICS = ("dino", "clip-i", "clip-t", "pres", "div")
"""The metrics of the suites."""
SEVERAL_IMAGES = {
    "perfect", "wrong place", "other identity", "copied", "collapsed", "entangled", "hallucinated"
}  # fmt: skip
"""Kinds with several images per prompt; the others have one."""
DISTANCE_KINDS = ("perfect", "collapsed")
"""Kinds with pairwise distances; the distance network is as slow as all encoders together."""
CLASS_IMAGES = 4

Pixels = NDArray[np.uint8]
Examples = dict[str, dict[tuple[str, str], Pixels]]
"""Subject -> kind and prompt -> an image, HW3."""


@dataclass(frozen=True)
class DrawnSubject:
    """One subject's drawn images with their truth and features."""

    images: tuple[DrawnImage, ...]
    features: Mapping[str, UnitVectors]
    """Role -> ND, in the order of the images."""
    texts: UnitVectors
    """ND, the vector of each image's prompt."""
    real: Mapping[str, UnitVectors]
    """Role -> RD, of the references."""
    distances: Mapping[str, NDArray[np.float64]]
    """Kind -> NN."""

    def rows(self, kind: str) -> NDArray[np.intp]:
        """Return the indices of a kind's images."""
        return np.flatnonzero([image.kind == kind for image in self.images])


def draw_truth(
    subjects: Sequence[Subject],
    *,
    prompts: int | None = None,
    images: int = 2,
    device: str = "cpu",
    advance: Advance = silent,
    examples: Examples | None = None,
) -> Iterator[DrawnSubject]:
    """Draw and encode every kind of drawn method, subject by subject.

    `prompts` is the number of a subject's 25 prompts to use, None for all; `images` the number of
    images per prompt. `examples` is filled, for the subjects that are its keys, with the first
    image of each kind and prompt, and with a reference.
    """
    encoders, network = truth_encoders(device), load_encoder("mini-lpips", device=device)
    if not isinstance(network, Distance):
        raise TypeError("mini-lpips is not a distance network")
    work = partial(_draw, prompts=prompts, images=images)
    with _mapping(len(subjects)) as each_subject:
        results = zip(subjects, each_subject(work, subjects), strict=True)
        for done, (subject, (known, pixels, where, real)) in enumerate(results):
            yield _encode(subject, known, pixels, where, real, encoders, network)
            if examples is not None and subject.name in examples:
                own = examples[subject.name]
                own["reference", ""] = real[0]
                for image, place in zip(known, where, strict=True):
                    own.setdefault((image.kind, image.prompt), pixels[place])
            advance(done + 1, len(subjects), {})


def truth_encoders(device: str) -> dict[str, Encoder]:
    """Return suite mini's encoders by role."""
    names = load_suite("mini").encoders
    loaded = {role: load_encoder(name, device=device) for role, name in names.items()}
    return {role: each for role, each in loaded.items() if not isinstance(each, Distance)}


def score_truth(drawn: DrawnSubject) -> pd.DataFrame:
    """Return one row per image and metric: `value` and the image's truth.

    The truth is kind, subject, prompt, number, shows_prompt, identity_error and error_<part>.
    """
    metrics = [load_metric(name) for name in METRICS]
    parts = [part for kind in (*KINDS, *CLASS_KINDS) for part in _kind_rows(drawn, kind, metrics)]
    return pd.DataFrame(parts)


def _kind_rows(
    drawn: DrawnSubject, kind: str, metrics: Sequence[Metric]
) -> Iterator[dict[str, Any]]:
    rows = drawn.rows(kind)
    for metric in metrics:
        for row, value in zip(rows, _values(drawn, kind, metric, rows), strict=True):
            if np.isfinite(value):
                image = drawn.images[row]
                yield {
                    "kind": kind,
                    "subject": image.subject,
                    "prompt": image.prompt,
                    "number": image.number,
                    "shows_prompt": image.shows_prompt,
                    "identity_error": image.identity_error,
                    **{f"error_{part}": image.errors[part] for part in PARTS},
                    "metric": metric.name,
                    "value": float(value),
                }


def _values(drawn: DrawnSubject, kind: str, metric: Metric, rows: NDArray[np.intp]) -> Values:
    apart = metric.role not in drawn.features
    if apart and kind not in drawn.distances:
        return np.full(len(rows), np.nan)
    return evaluate_from(
        metric,
        [drawn.images[row].prompt for row in rows],
        images=lambda: drawn.features[metric.role][rows],
        references=lambda: drawn.real[metric.role],
        texts=lambda: drawn.texts[rows],
        distances=drawn.distances[kind] if apart else None,
    )


@contextmanager
def _mapping(subjects: int) -> Iterator[Callable[..., Iterable[Work]]]:
    """Yield a `map` over subjects, in processes for more than three subjects.

    Drawing is plain Python; starting processes takes as long as drawing three subjects.
    """
    if subjects <= 3:
        yield map
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield pool.map


Work = tuple[list[DrawnImage], list[Pixels], list[int], list[Pixels]]


def _draw(subject: Subject, *, prompts: int | None, images: int) -> Work:
    """Return images, distinct pixels, the index of each image's pixels, and the references."""
    known: list[DrawnImage] = []
    for kind in KINDS:
        count = images if kind in SEVERAL_IMAGES else 1
        known += drawn_images(kind, subject, prompts=prompts, images=count)
    for kind in CLASS_KINDS:
        known += drawn_images(kind, subject, prompts=None, images=CLASS_IMAGES)
    scenes = dict.fromkeys(image.scene for image in known)
    place = {scene: number for number, scene in enumerate(scenes)}
    pixels = [np.asarray(draw(scene, size=SIZE)) for scene in place]
    real = [np.asarray(draw(scene, size=SIZE)) for scene in reference_scenes(subject)]
    return known, pixels, [place[image.scene] for image in known], real


def _encode(
    subject: Subject,
    known: Sequence[DrawnImage],
    pixels: Sequence[Pixels],
    where: Sequence[int],
    real: Sequence[Pixels],
    encoders: Mapping[str, Encoder],
    network: Distance,
) -> DrawnSubject:
    images = [Image.fromarray(each) for each in pixels]
    originals = [Image.fromarray(each) for each in real]
    texts = {p.id: p.render("", subject.class_noun) for p in MiniWorld().prompts(subject)}
    texts[CLASS_PROMPT] = f"a {subject.class_noun}"
    vectors = dict(zip(texts, encoders["clip"].encode_texts(list(texts.values())), strict=True))
    distances = {}
    for kind in DISTANCE_KINDS:
        own = [images[place] for image, place in zip(known, where, strict=True)
               if image.kind == kind]  # fmt: skip
        distances[kind] = network.pairwise_distances(own)
    return DrawnSubject(
        tuple(known),
        {role: e.encode_images(images)[where] for role, e in encoders.items()},
        np.stack([vectors[image.prompt] for image in known]),
        {role: e.encode_images(originals) for role, e in encoders.items()},
        distances,
    )
