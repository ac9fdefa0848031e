"""Truth: pictures of the embedded world of which all is known, encoded and scored as a run's are.

The stage before `validity.py`, which holds the scores against what is known.
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
from dbbench.validity.drawn import CLASS_KINDS, KINDS, PARTS, Picture, pictures

METRICS = ("dino", "clip-i", "clip-t", "pres", "div")
"""What the suites score."""
SEVERAL = {
    "perfect", "wrong place", "other identity", "copied", "collapsed", "entangled", "hallucinated"
}  # fmt: skip
"""The kinds of which each prompt has several images; of the others it has one."""
COMPARED = ("perfect", "collapsed")
"""The kinds that a distance network sees, which takes as long as all encoders together."""
CLASS_IMAGES = 4

Pixels = NDArray[np.uint8]
Examples = dict[str, dict[tuple[str, str], Pixels]]
"""Subject -> kind and prompt -> a picture, HW3."""


@dataclass(frozen=True)
class Drawn:
    """One subject's pictures: what is known of each, and their features."""

    pictures: tuple[Picture, ...]
    features: Mapping[str, UnitVectors]
    """Role -> ND, in the order of the pictures."""
    texts: UnitVectors
    """ND of each picture's prompt."""
    real: Mapping[str, UnitVectors]
    """Role -> RD."""
    distances: Mapping[str, NDArray[np.float64]]
    """Kind -> NN."""

    def rows(self, kind: str) -> NDArray[np.intp]:
        """Which pictures are of a kind."""
        return np.flatnonzero([picture.kind == kind for picture in self.pictures])


def draw_truth(
    subjects: Sequence[Subject],
    *,
    prompts: int | None = None,
    images: int = 2,
    device: str = "cpu",
    advance: Advance = silent,
    examples: Examples | None = None,
) -> Iterator[Drawn]:
    """Draw and encode every kind of drawn method, subject by subject.

    `prompts` is how many of a subject's 25, None for all; `images` how many each has. `examples`
    takes the first picture of each kind and prompt, and "reference", for subjects that are keys.
    """
    encoders, network = truth_encoders(device), load_encoder("mini-lpips", device=device)
    if not isinstance(network, Distance):
        raise TypeError("mini-lpips is no distance")
    work = partial(_draw, prompts=prompts, images=images)
    with _ahead(len(subjects)) as several:
        results = zip(subjects, several(work, subjects), strict=True)
        for done, (subject, (known, pixels, where, real)) in enumerate(results):
            yield _encode(subject, known, pixels, where, real, encoders, network)
            if examples is not None and subject.name in examples:
                own = examples[subject.name]
                own["reference", ""] = real[0]
                for picture, place in zip(known, where, strict=True):
                    own.setdefault((picture.kind, picture.prompt), pixels[place])
            advance(done + 1, len(subjects), {})


def truth_encoders(device: str) -> dict[str, Encoder]:
    """Return suite mini's encoders by role."""
    names = load_suite("mini").encoders
    loaded = {role: load_encoder(name, device=device) for role, name in names.items()}
    return {role: each for role, each in loaded.items() if not isinstance(each, Distance)}


def score_truth(drawn: Drawn) -> pd.DataFrame:
    """Return one row per picture and metric: `value` beside what is known.

    Known are kind, subject, prompt, number, shows_prompt, identity_error and error_<part>.
    """
    metrics = [load_metric(name) for name in METRICS]
    parts = [part for kind in (*KINDS, *CLASS_KINDS) for part in _kind_rows(drawn, kind, metrics)]
    return pd.DataFrame(parts)


def _kind_rows(drawn: Drawn, kind: str, metrics: Sequence[Metric]) -> Iterator[dict[str, Any]]:
    rows = drawn.rows(kind)
    for metric in metrics:
        for row, value in zip(rows, _values(drawn, kind, metric, rows), strict=True):
            if np.isfinite(value):
                yield _known(drawn.pictures[row]) | {"metric": metric.name, "value": float(value)}


def _values(drawn: Drawn, kind: str, metric: Metric, rows: NDArray[np.intp]) -> Values:
    apart = metric.role not in drawn.features
    if apart and kind not in drawn.distances:
        return np.full(len(rows), np.nan)
    return evaluate_from(
        metric,
        [drawn.pictures[row].prompt for row in rows],
        images=lambda: drawn.features[metric.role][rows],
        references=lambda: drawn.real[metric.role],
        texts=lambda: drawn.texts[rows],
        distances=drawn.distances[kind] if apart else None,
    )


def _known(picture: Picture) -> dict[str, Any]:
    return {
        "kind": picture.kind,
        "subject": picture.subject,
        "prompt": picture.prompt,
        "number": picture.number,
        "shows_prompt": picture.shows_prompt,
        "identity_error": picture.identity_error,
        **{f"error_{part}": picture.errors[part] for part in PARTS},
    }


@contextmanager
def _ahead(subjects: int) -> Iterator[Callable[..., Iterable[Work]]]:
    """Give what maps over subjects: drawing is plain Python, so other processes do it meanwhile.

    Starting these takes as long as drawing three subjects.
    """
    if subjects <= 3:
        yield map
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield pool.map


Work = tuple[list[Picture], list[Pixels], list[int], list[Pixels]]


def _draw(subject: Subject, *, prompts: int | None, images: int) -> Work:
    """Return pictures, distinct pixels, which of these each picture has, and the references."""
    known: list[Picture] = []
    for kind in KINDS:
        count = images if kind in SEVERAL else 1
        known += pictures(kind, subject, prompts=prompts, images=count)
    for kind in CLASS_KINDS:
        known += pictures(kind, subject, prompts=None, images=CLASS_IMAGES)
    scenes = dict.fromkeys(picture.scene for picture in known)
    place = {scene: number for number, scene in enumerate(scenes)}
    pixels = [np.asarray(draw(scene, size=SIZE)) for scene in place]
    real = [np.asarray(draw(scene, size=SIZE)) for scene in reference_scenes(subject)]
    return known, pixels, [place[picture.scene] for picture in known], real


def _encode(
    subject: Subject,
    known: Sequence[Picture],
    pixels: Sequence[Pixels],
    where: Sequence[int],
    real: Sequence[Pixels],
    encoders: Mapping[str, Encoder],
    network: Distance,
) -> Drawn:
    images = [Image.fromarray(each) for each in pixels]
    originals = [Image.fromarray(each) for each in real]
    texts = {p.id: p.render("", subject.class_noun) for p in MiniWorld().prompts(subject)}
    texts[CLASS_PROMPT] = f"a {subject.class_noun}"
    vectors = dict(zip(texts, encoders["clip"].encode_texts(list(texts.values())), strict=True))
    distances = {}
    for kind in COMPARED:
        own = [images[place] for picture, place in zip(known, where, strict=True)
               if picture.kind == kind]  # fmt: skip
        distances[kind] = network.pairwise_distances(own)
    return Drawn(
        tuple(known),
        {role: e.encode_images(images)[where] for role, e in encoders.items()},
        np.stack([vectors[picture.prompt] for picture in known]),
        {role: e.encode_images(originals) for role, e in encoders.items()},
        distances,
    )
