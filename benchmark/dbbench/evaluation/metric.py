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
"""The id of the prompt of the class noun alone ("a dog"), which shows a tuned model's class.

Its images do not show the subject, so only metrics that compare "class-images" use them.
"""

Comparison = Literal["references", "distances", "text", "siblings", "class-images"]


@dataclass(frozen=True)
class Features:
    """The input of a metric: the features of its encoder.

    `references` has one row for each real image, all others one row for each of N generated images.
    If the encoder is a distance network, `distances` replaces the vectors.
    """

    generated: UnitVectors
    references: UnitVectors | None = None
    texts: UnitVectors | None = None
    distances: NDArray[np.floating[typing.Any]] | None = None
    """NN: from each generated image to each other; zero on the diagonal."""
    real_distances: NDArray[np.floating[typing.Any]] | None = None
    """NR: from each generated image to each real one."""

    def take(self, rows: NDArray[np.intp]) -> Features:
        """Return the features of these generated images, with the same references."""
        return Features(
            generated=self.generated[rows],
            references=self.references,
            texts=None if self.texts is None else self.texts[rows],
            distances=None if self.distances is None else self.distances[np.ix_(rows, rows)],
            real_distances=None if self.real_distances is None else self.real_distances[rows],
        )


class Metric(typing.Protocol):
    """A pure function on features, with its description for the stages and the tables."""

    name: str
    """Its name in suites and score tables, such as "clip-i"."""
    label: str
    """Its name in printed tables, such as "CLIP-I"."""
    role: str
    """The role of its encoder, such as "dino", "clip", "dinov2" or "lpips"."""
    compares: Comparison
    """What is compared with what.

    "references": each generated image with the subject's real images; "distances": the same by a
    distance network, only in `dbbench score`; "text": with its own prompt;
    "siblings": with the other images of the same prompt, so that `score` is called once for each
    prompt; "class-images": images of the class noun alone (`CLASS_PROMPT`) with the real images.
    """
    higher_is_better: bool
    flag: str
    """The name of a flag for images that score higher than every real image, such as "copy".

    With "siblings" the mean over a prompt is compared. Empty for a metric that flags nothing, but
    measures a method and is in the leaderboard.
    """

    def score(self, features: Features) -> Values:
        """Features of N generated images -> N values; no values without a comparison."""
        ...


def evaluate(metric: Metric, prompts: Sequence[str], features: Features) -> Values:
    """Score N images of one subject by one method; `prompts` are the ids of their prompts.

    NaN where undefined: class images for most metrics, all others for "class-images", and for
    "siblings" the single image of a prompt.
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
    """As `evaluate`, from features of one encoder: `images` ND, `references` RD and `texts` ND.

    Only the functions that the metric needs are called. A distance network has `distances` instead,
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
    """ND -> N: the mean cosine similarity of each row to the N-1 others; empty for N = 1."""
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

    `against` limits the comparison to the first so many of them. Without self-pairs no image is
    compared with itself (leave one out), so that the mean over R is the mean over all pairs of
    different images; a single image has no value. Empty for metrics that do not compare with
    references, because a photograph has no prompt and no siblings.
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

    An image above it is more similar to a reference than any two real images are to each other.
    None for fewer than two images.
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
    """ND -> ND float64, each row of length one. Raises ValueError for a zero or non-finite row."""
    # Cast up: float32 dot products differ in the last digits with the batch and the machine.
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ValueError("features hold a zero or non-finite vector")
    unit: Values = rows / norms
    return unit


def load_metric(name: str) -> Metric:
    """Return the metric of that name. Raises UserError for an unknown one."""
    return cast("Metric", load_plugin("metrics", name)())
