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
from dbbench.files import read_json
from dbbench.reports.results import Results

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
    found = results.out.glob("runs/*/*/*/features/*/images.npy")
    return frozenset(path.parts[-6] for path in found)


def find_flags(results: Results) -> tuple[Flag, ...]:
    """Return all flags, the furthest above their ceiling first; none where features are gone."""
    role = next((m.role for m in results.metrics if m.compares == "references"), None)
    expectation = results.leaderboard.expectation
    found: list[Flag] = []
    for subject in expectation.subjects if role else ():
        real = _vectors(results.out / "features" / "real" / subject / str(role))
        if real is None or len(real) < 2:
            continue
        similarity = real @ real.T
        ceiling = float(similarity[~np.eye(len(real), dtype=bool)].max())
        for method in results.leaderboard.ranking["method"]:
            for seed in expectation.seeds if method != REAL else ():
                folder = results.out / "runs" / str(method) / subject / str(seed)
                found += _run_flags(folder, str(role), str(method), subject, seed, real, ceiling)
    return tuple(sorted(found, key=lambda flag: -flag.excess))


def _run_flags(
    run: Path, role: str, method: str, subject: str, seed: int, real: Vectors, ceiling: float
) -> Iterator[Flag]:
    vectors = _vectors(run / "features" / role)
    entries = read_json(run / "samples" / "samples.json").get("images", [])
    if vectors is None or len(vectors) != len(entries):
        return
    nearest = vectors @ real.T
    rows: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry["category"] != "class":
            rows.setdefault(str(entry["prompt"]), []).append(row)
    for prompt, own in rows.items():
        for row in own:
            reference = int(nearest[row].argmax())
            if (value := float(nearest[row, reference])) > ceiling:
                number = int(entries[row]["number"])
                yield Flag("copy", method, subject, seed, prompt, number, value, ceiling, reference)
        if len(own) > 1:
            between = vectors[own] @ vectors[own].T
            mean = float((between.sum() - np.trace(between)) / (len(own) * (len(own) - 1)))
            if mean > ceiling:
                reference = int(nearest[own[0]].argmax())
                number = int(entries[own[0]]["number"])
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
