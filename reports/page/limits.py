"""The limits of each method in a run: a number per subject, kept beside the tables."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dbbench.evaluation.encoder import UnitVectors
from dbbench.evaluation.limits import LIMITS, Limit, Shown
from dbbench.evaluation.metric import CLASS_PROMPT
from dbbench.evaluation.scores import REAL
from dbbench.files import fingerprint, read_json, write_text
from dbbench.reports.formats.table import Table, number, write_table
from dbbench.reports.results import Results
from dbbench.storage.run_folder import features_folder, real_features_folder, samples_of
from dbbench.suites.runs import Run

LIMITS_FILE = ".limits.json"
LIMITS_VERSION = 2  # Increase when the same features give other numbers.
PLACES = "recontextualization"
"""The category whose prompts change the place, but not the look of the subject."""


@dataclass(frozen=True)
class Limits:
    """The limits as the page shows them: means of the methods, and numbers of the subjects."""

    means: pd.DataFrame
    """method, limit, value, low, high, subjects."""
    table: Table
    all: tuple[Limit, ...] = LIMITS

    @property
    def by_method(self) -> list[tuple[str, list[dict[Hashable, Any]]]]:
        """Each method's cells in the order of the limits."""
        names = [limit.name for limit in self.all]
        return [
            (str(method), own.set_index("limit").loc[names].to_dict("records"))
            for method, own in self.means.groupby("method", sort=False)
        ]


def read_limits(results: Results, report: Path) -> Limits:
    """Measure every run that has features; unchanged results of an earlier report are reused."""
    key = fingerprint([LIMITS_VERSION, results.key])
    known = read_json(report / LIMITS_FILE)
    if known.get("key") == key:
        subjects = pd.DataFrame(known["subjects"], columns=["subject", "method", *_names()])
        means = pd.DataFrame(known["means"], columns=_MEANS)
    else:
        subjects = measure(results)
        means = _means(subjects)
        kept = {"key": key} | {
            name: json.loads(frame.to_json(orient="values", double_precision=15))
            for name, frame in (("subjects", subjects), ("means", means))
        }
        write_text(report / LIMITS_FILE, json.dumps(kept) + "\n")
    numbers = dict.fromkeys(_names(), "float64")
    subjects = subjects.astype(numbers)
    rows = [
        [str(row["subject"]), str(row["method"]), *(number(row[name]) for name in numbers)]
        for row in subjects.to_dict("records")
    ]
    header = ["subject", "method", *(limit.label for limit in LIMITS)]
    note = " ".join(f"{limit.label}: {limit.definition}" for limit in LIMITS)
    table = Table("limits", "limits by subject", header, rows, subjects, texts=2, note=note)
    means = means.astype(dict.fromkeys(("value", "low", "high"), "float64"))
    return Limits(means, table)


def write_limits(limits: Limits, results: Results, folder: Path) -> list[Table]:
    """Write the table in four forms; return it, or nothing if it is empty."""
    if not limits.table.rows:
        return []
    banners = [results.banner] if results.banner else []
    write_table(limits.table, folder, origin=results.suite.name, banners=banners)
    return [limits.table]


def measure(results: Results) -> pd.DataFrame:
    """Return one row per subject and method, the mean over seeds; without features there is none.

    DINO tells subjects apart where the suite has it, else the first metric that compares with
    references; texts are those of the first metric that compares with texts.
    """
    look = _role(results, "references", prefer="dino")
    meaning = _role(results, "text")
    expectation, rows = results.leaderboard.expectation, []
    for subject in expectation.subjects if look and meaning else ():
        for method in results.rows:
            if method == REAL:
                continue
            runs = [Run(method, subject, seed) for seed in expectation.seeds]
            shown = (_shown(results.out, run, str(look), str(meaning)) for run in runs)
            seen = [each for each in shown if each]
            if seen:
                numbers = {limit.name: _mean([limit.of(each) for each in seen]) for limit in LIMITS}
                rows.append({"subject": subject, "method": method} | numbers)
    return pd.DataFrame(rows, columns=["subject", "method", *_names()])


_MEANS = ["method", "limit", "value", "low", "high", "subjects"]


def _role(results: Results, compares: str, *, prefer: str = "") -> str | None:
    """Return the encoder role of the first metric that compares so, of `prefer` if it is there."""
    roles = [metric.role for metric in results.metrics if metric.compares == compares]
    return prefer if prefer in roles else next(iter(roles), None)


def _names() -> list[str]:
    return [limit.name for limit in LIMITS]


def _means(subjects: pd.DataFrame) -> pd.DataFrame:
    from dbbench.evaluation.statistics import subject_interval

    rows = []
    for method, own in subjects.groupby("method", sort=False):
        for limit in LIMITS:
            values = own[limit.name].dropna().to_numpy(dtype=float)
            interval = subject_interval(values)
            mean = _mean(list(values))
            rows.append([method, limit.name, mean, interval.low, interval.high, len(values)])
    return pd.DataFrame(rows, columns=_MEANS)


def _shown(out: Path, run: Run, look: str, meaning: str) -> Shown | None:
    """Return the features of a run's samples; None if one of its files is missing."""
    samples = samples_of(out, run)
    images = read_vectors(out / features_folder(run, look))
    means = read_vectors(out / features_folder(run, meaning))
    texts = read_vectors(out / features_folder(run, meaning), "texts")
    originals = read_vectors(out / real_features_folder(run.subject, meaning))
    if samples is None or images is None or means is None or texts is None or originals is None:
        return None
    entries = samples.images
    if not len(entries) == len(images) == len(means) == len(texts):
        return None
    asked = np.array([entry.prompt != CLASS_PROMPT for entry in entries])
    return Shown(
        look=images[asked],
        meaning=means[asked],
        texts=texts[asked],
        prompts=np.array([entry.prompt for entry in entries])[asked],
        keeps_look=np.array([entry.category == PLACES for entry in entries])[asked],
        real_meaning=originals,
    )


def read_vectors(folder: Path, name: str = "images") -> UnitVectors | None:
    """Return the features in a file of a folder; None if they cannot be read."""
    try:
        vectors: UnitVectors = np.load(folder / f"{name}.npy", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return vectors


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
