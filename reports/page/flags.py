"""Suspicious samples: images that are a reference given back, prompts that give one picture.

The measure is the subject's own real images. Let c be the highest similarity of any two of them in
the features that the suite's first metric compares references in (DINO). An image closer than c to
some reference is closer than the subject's own images ever are to each other: a *copy*. A prompt
whose images are on average closer to each other than c has *collapsed*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dbbench.evaluation.scores import REAL
from dbbench.reports.results import Results
from dbbench.storage.run_folder import features_folder, real_features_folder, runs_in, samples_of
from dbbench.suites.runs import Run

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Flag:
    """One flagged image; of a collapsed prompt the first."""

    kind: Literal["copy", "collapse"]
    method: str
    subject: str
    seed: int
    prompt: str
    number: int
    similarity: float
    ceiling: float
    reference: int
    """Which reference image is nearest, from 0 on."""

    @property
    def excess(self) -> float:
        """How far above the ceiling it is."""
        return self.similarity - self.ceiling


def measured(results: Results) -> frozenset[str]:
    """Return the methods whose features are there; of the others nothing is known."""
    runs = runs_in(results.out)
    return frozenset(
        run.method for run in runs if any(results.out.glob(features_folder(run, "*/images.npy")))
    )


def find_flags(results: Results) -> tuple[Flag, ...]:
    """Return all flags, the furthest above their ceiling first; none where features are gone."""
    role = next((m.role for m in results.metrics if m.compares == "references"), None)
    expectation = results.leaderboard.expectation
    found: list[Flag] = []
    for subject in expectation.subjects if role else ():
        real = _vectors(results.out / real_features_folder(subject, str(role)))
        if real is None or len(real) < 2:
            continue
        similarity = real @ real.T
        ceiling = float(similarity[~np.eye(len(real), dtype=bool)].max())
        for method in results.leaderboard.ranking["method"]:
            for seed in expectation.seeds if method != REAL else ():
                run = Run(str(method), subject, seed)
                found += _run_flags(results.out, run, str(role), real, ceiling)
    return tuple(sorted(found, key=lambda flag: -flag.excess))


def _run_flags(out: Path, run: Run, role: str, real: Vectors, ceiling: float) -> Iterator[Flag]:
    vectors, samples = _vectors(out / features_folder(run, role)), samples_of(out, run)
    if vectors is None or samples is None or len(vectors) != len(samples.images):
        return
    method, subject, seed, entries = run.method, run.subject, run.seed, samples.images
    nearest = vectors @ real.T
    rows: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry.category != "class":
            rows.setdefault(entry.prompt, []).append(row)
    for prompt, own in rows.items():
        for row in own:
            reference = int(nearest[row].argmax())
            if (value := float(nearest[row, reference])) > ceiling:
                number = entries[row].number
                yield Flag("copy", method, subject, seed, prompt, number, value, ceiling, reference)
        if len(own) > 1:
            between = vectors[own] @ vectors[own].T
            mean = float((between.sum() - np.trace(between)) / (len(own) * (len(own) - 1)))
            if mean > ceiling:
                reference = int(nearest[own[0]].argmax())
                number = entries[own[0]].number
                yield Flag(
                    "collapse", method, subject, seed, prompt, number, mean, ceiling, reference
                )


def _vectors(folder: Path) -> Vectors | None:
    """Return the unit vectors of a folder's images; None where there are none."""
    try:
        rows = np.load(folder / "images.npy", allow_pickle=False).astype(np.float64)
    except (OSError, ValueError):
        return None
    unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
