"""Metric: features -> one number per image; the score stage calls one, `metrics/` holds them."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dbbench.encoder import Vectors

Values = NDArray[np.float64]
"""N float64: one value for each image."""


@dataclass(frozen=True)
class Features:
    """What one metric sees of one run: the features of its own encoder and of nothing else.

    `texts` has one row for each generated image; `references` has one for each real image.
    """

    generated: Vectors
    references: Vectors | None = None
    texts: Vectors | None = None


class Metric(typing.Protocol):
    """A pure function on features, with what the stages and the tables must know of it."""

    name: str
    """How suites and score tables call it, such as "clip-i"."""
    label: str
    """How tables print it, such as "CLIP-I"."""
    role: str
    """Which encoder of the suite gives the features: "dino" or "clip"."""
    compares: Literal["references", "text"]
    """With what each generated image is compared."""
    higher_is_better: bool

    def score(self, features: Features) -> Values:
        """Features of N generated images -> N values."""
        ...


@dataclass(frozen=True)
class Protocol:
    """A reading of the paper: the choices that it left open, named.

    `references`: each image against all real images or against the first one only. `text`: the
    prompt without the identifier ("a dog in the jungle") or as the backbone got it. `self_pairs`:
    whether a real image is compared with itself in the real-images row.
    """

    name: str
    references: Literal["all", "first"] = "all"
    text: Literal["without-identifier", "as-given"] = "without-identifier"
    self_pairs: bool = False


PAPER = Protocol(name="paper")
"""The majority reading of Ruiz et al., arXiv 2208.12242, section 4.2."""


def mean_cosine(generated: Vectors, others: Vectors) -> Values:
    """ND, MD -> N: the mean cosine similarity of each row to all M rows of `others`."""
    if generated.ndim != 2 or others.ndim != 2 or generated.shape[1] != others.shape[1]:
        raise ValueError(f"features do not match: {generated.shape} and {others.shape}")
    if not len(others):
        raise ValueError("no features to compare with")
    # The mean of the cosines is the cosine to the mean of the unit vectors, undivided by its norm.
    values: Values = _unit(generated) @ _unit(others).mean(axis=0)
    return values


def paired_cosine(generated: Vectors, others: Vectors) -> Values:
    """ND, ND -> N: the cosine similarity of row i with row i."""
    if generated.ndim != 2 or generated.shape != others.shape:
        raise ValueError(f"features do not match: {generated.shape} and {others.shape}")
    values: Values = np.einsum("nd,nd->n", _unit(generated), _unit(others))
    return values


def score_real(metric: Metric, references: Vectors, protocol: Protocol = PAPER) -> Values:
    """RD real images of one subject -> R values: each scored as if it had been generated.

    Without self-pairs each is compared with the R-1 others (leave one out), so that the mean over R
    is the mean over all pairs of different images. Empty where nothing is left to compare with, and
    for metrics that compare with the text: a photograph has no prompt.
    """
    if metric.compares != "references" or (len(references) < 2 and not protocol.self_pairs):
        return np.zeros(0)
    if protocol.self_pairs:
        return metric.score(Features(generated=references, references=references))
    return np.concatenate(
        [
            metric.score(
                Features(
                    generated=references[i : i + 1], references=np.delete(references, i, axis=0)
                )
            )
            for i in range(len(references))
        ]
    )


def _unit(vectors: Vectors) -> Values:
    # Cast up: float32 dot products differ in the last digits with the batch and the machine.
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise ValueError("features hold a zero or non-finite vector")
    unit: Values = rows / norms
    return unit
