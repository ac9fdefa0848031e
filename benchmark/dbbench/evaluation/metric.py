"""Metric: features -> one number per image; the score stage calls one, `metrics/` holds them."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from dbbench.evaluation.encoder import UnitVectors
from dbbench.plugins import load_plugin

Values = NDArray[np.float64]
"""N float64: one value for each image."""

CLASS_PROMPT = "class-noun"
"""The id of the prompt without a subject ("a dog"): what a tuned model still knows of its class.

Images of this prompt are no pictures of the subject: only metrics that compare "class-images" see
them, and no other metric does.
"""

Comparison = Literal["references", "distances", "text", "siblings", "class-images"]


@dataclass(frozen=True)
class Features:
    """What one metric sees: the features of its own encoder and of nothing else.

    Each has one row for each of N generated images, but `references`, which has one for each real
    image. Where the encoder is a distance network, `distances` takes the place of vectors.
    """

    generated: UnitVectors
    references: UnitVectors | None = None
    texts: UnitVectors | None = None
    distances: NDArray[np.floating[typing.Any]] | None = None
    """NN: from each generated image to each other; zero on the diagonal."""
    real_distances: NDArray[np.floating[typing.Any]] | None = None
    """NR: from each generated image to each real one."""

    def take(self, rows: NDArray[np.intp]) -> Features:
        """Return the features of some of the generated images, beside the same references."""
        return Features(
            generated=self.generated[rows],
            references=self.references,
            texts=None if self.texts is None else self.texts[rows],
            distances=None if self.distances is None else self.distances[np.ix_(rows, rows)],
            real_distances=None if self.real_distances is None else self.real_distances[rows],
        )


class Metric(typing.Protocol):
    """A pure function on features, with what the stages and the tables must know of it."""

    name: str
    """How suites and score tables call it, such as "clip-i"."""
    label: str
    """How tables print it, such as "CLIP-I"."""
    role: str
    """Which encoder gives the features, such as "dino", "clip", "dinov2" or "lpips"."""
    compares: Comparison
    """What is compared with what.

    "references": each generated image with the subject's real images; "distances": the same by a
    distance network, only in `dbbench score`; "text": with its own prompt;
    "siblings": with the other images of the same prompt, so that `score` is called once for each
    prompt; "class-images": images of the class noun alone (`CLASS_PROMPT`) with the real images.
    """
    higher_is_better: bool
    flag: str
    """What an image is called whose score is above every real image's own, such as "copy".

    With "siblings" it is the mean over a prompt that counts. Empty where nothing is flagged: the
    metric then measures a method and stands in the leaderboard.
    """

    def score(self, features: Features) -> Values:
        """Features of N generated images -> N values; none where there is nothing to compare."""
        ...


def evaluate(metric: Metric, prompts: Sequence[str], features: Features) -> Values:
    """Score the N images of one subject by one method, whose prompts' ids are `prompts`.

    NaN for what the metric says nothing of: class images, or all but these, and only children.
    """
    ids = np.asarray(prompts, dtype=str)
    bare = ids == CLASS_PROMPT
    if metric.compares == "siblings":
        groups = [np.flatnonzero(ids == prompt) for prompt in dict.fromkeys(ids[~bare].tolist())]
    else:
        groups = [np.flatnonzero(bare if metric.compares == "class-images" else ~bare)]
    values = np.full(len(ids), np.nan)
    for rows in groups:
        if len(rows) and len(scores := metric.score(features.take(rows))):
            values[rows] = scores
    return values


def evaluate_from(
    metric: Metric,
    prompts: Sequence[str],
    *,
    images: Callable[[], UnitVectors],
    references: Callable[[], UnitVectors | None] = lambda: None,
    texts: Callable[[], UnitVectors | None] = lambda: None,
    distances: NDArray[np.floating[typing.Any]] | None = None,
) -> Values:
    """As `evaluate`, from what one encoder gives: `images` ND, `references` RD and `texts` ND.

    Only what the metric compares is called for. A distance network gives `distances` instead,
    N(N+R): from each image to each other one, then to each reference; R may be 0.
    """
    if distances is None:
        with_real = metric.compares in {"references", "class-images"}
        features = Features(
            generated=images(),
            references=references() if with_real else None,
            texts=texts() if metric.compares == "text" else None,
        )
    else:
        count = len(prompts)
        features = Features(
            generated=np.zeros((count, 0), np.float32),
            distances=distances[:, :count],
            real_distances=distances[:, count:],
        )
    return evaluate(metric, prompts, features)


def mean_cosine(generated: UnitVectors, others: UnitVectors | None) -> Values:
    """ND, MD -> N: the mean cosine similarity of each row to all M rows of `others`."""
    # The mean of the cosines is the cosine to the mean of the unit vectors, undivided by its norm.
    values: Values = unit_rows(generated) @ unit_rows(_matching(others, generated)).mean(axis=0)
    return values


def highest_cosine(generated: UnitVectors, others: UnitVectors | None) -> Values:
    """ND, MD -> N: the highest cosine similarity of each row to any one row of `others`."""
    values: Values = (unit_rows(generated) @ unit_rows(_matching(others, generated)).T).max(axis=1)
    return values


def sibling_cosine(generated: UnitVectors) -> Values:
    """ND -> N: the mean cosine similarity of each row to the N-1 others; nothing for one row."""
    if len(generated) < 2:
        return np.zeros(0)
    unit = unit_rows(generated)
    values: Values = (unit @ unit.sum(axis=0) - 1.0) / (len(unit) - 1)
    return values


def paired_cosine(generated: UnitVectors, others: UnitVectors) -> Values:
    """ND, ND -> N: the cosine similarity of row i with row i."""
    if generated.ndim != 2 or generated.shape != others.shape:
        raise ValueError(f"features do not match: {generated.shape} and {others.shape}")
    values: Values = np.einsum("nd,nd->n", unit_rows(generated), unit_rows(others))
    return values


def score_real(
    metric: Metric, references: UnitVectors, *, against: int | None = None, self_pairs: bool = False
) -> Values:
    """RD real images of one subject -> up to R values: each scored as if it had been generated.

    `against` compares with the first so many of them only. Without self-pairs no image is compared
    with itself (leave one out), so that the mean over R is the mean over all pairs of different
    images; an image that has nothing left to be compared with has no value. Empty for metrics that
    do not compare with references: a photograph has no prompt and no siblings.
    """
    if metric.compares != "references":
        return np.zeros(0)
    chosen = np.arange(len(references))[:against]
    values = []
    for i in range(len(references)):
        others = chosen if self_pairs else chosen[chosen != i]
        if len(others):
            features = Features(references[i : i + 1], references=references[others])
            values.append(metric.score(features))
    return np.concatenate(values) if values else np.zeros(0)


def real_ceiling(references: UnitVectors) -> float | None:
    """RD -> the highest cosine similarity of two different real images of a subject.

    What is closer than this to a reference is closer than the subject's own photographs ever are to
    each other. None for fewer than two images.
    """
    if len(references) < 2:
        return None
    return float(
        max(
            highest_cosine(references[i : i + 1], np.delete(references, i, axis=0))[0]
            for i in range(len(references))
        )
    )


def _matching(others: UnitVectors | None, generated: UnitVectors) -> UnitVectors:
    """Return `others`. Raises ValueError if there are none, or of another length D."""
    if others is None:
        raise ValueError("the metric needs the features of the real images")
    if generated.ndim != 2 or others.ndim != 2 or generated.shape[1] != others.shape[1]:
        raise ValueError(f"features do not match: {generated.shape} and {others.shape}")
    if not len(others):
        raise ValueError("no features to compare with")
    return others


def unit_rows(vectors: UnitVectors) -> Values:
    """ND -> ND float64, each row of length one. Raises ValueError for a row that has none."""
    # Cast up: float32 dot products differ in the last digits with the batch and the machine.
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ValueError("features hold a zero or non-finite vector")
    unit: Values = rows / norms
    return unit


def load_metric(name: str) -> Metric:
    """Return a metric."""
    return cast("Metric", load_plugin("metrics", name)())
