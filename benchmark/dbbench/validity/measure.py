"""Validity: do the metrics measure what they promise? Scores of drawn images -> tables.

Pure pandas on the scores of `truth.py`. All means and intervals are over subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dbbench.advance import Advance, silent
from dbbench.data.subject import Subject
from dbbench.evaluation.metric import Comparison, Metric, load_metric
from dbbench.mini.source import DRAWINGS_VERSION
from dbbench.validity.drawn import CLASS_KINDS, KINDS, PARTS
from dbbench.validity.limits import limit_agreement, over_subjects, rank_correlation
from dbbench.validity.power import TRIALS, detectable_shares
from dbbench.validity.truth import METRICS, Examples, draw_truth, score_truth, truth_encoders

VERSION = 1  # Increase when the same images give other tables.


@dataclass(frozen=True)
class OrderQuestion:
    """Two kinds of drawn images, the better one first: does a metric rank them in this order?"""

    text: str
    better: str
    worse: str
    asked_of: tuple[Comparison, ...]
    """Metrics with these comparisons promise this order; for the others it is information."""


ORDER_QUESTIONS = (
    OrderQuestion(
        "the subject above another of its class", "perfect", "other identity", ("references",)
    ),
    OrderQuestion(
        "the subject above another of its class, both in a wrong place",
        "wrong place",
        "other identity wrong place",
        ("references",),
    ),
    OrderQuestion("the subject above another class", "perfect", "other class", ("references",)),
    OrderQuestion(
        "the subject above another class, both in a wrong place",
        "wrong place",
        "other class wrong place",
        ("references",),
    ),
    OrderQuestion(
        "the subject in a wrong place above another in the right one",
        "wrong place",
        "other identity",
        ("references",),
    ),
    OrderQuestion("the right place above a wrong one", "perfect", "wrong place", ("text",)),
    OrderQuestion("the prompted image above a copied reference", "perfect", "copied", ("text",)),
    OrderQuestion(
        "different images above one image repeated", "perfect", "collapsed", ("siblings",)
    ),
    OrderQuestion("the unchanged class above the drifted class", *CLASS_KINDS, ("class-images",)),
)


@dataclass(frozen=True)
class Validity:
    """The results of drawn images for metrics and limits: tables, and their inputs."""

    record: Mapping[str, Any]
    """subjects (names), prompts, images, pictures, encoders (role -> fingerprint)."""
    means: pd.DataFrame
    orders: pd.DataFrame
    correlations: pd.DataFrame
    power: pd.DataFrame
    limits: pd.DataFrame


def measure_validity(
    subjects: Sequence[Subject],
    *,
    prompts: int | None = None,
    images: int = 2,
    device: str = "cpu",
    advance: Advance = silent,
    examples: Examples | None = None,
    trials: int = TRIALS,
) -> Validity:
    """Draw, encode and score every kind of image, and compare the scores with the truth.

    `trials` is the number of simulated comparisons for each power; the other options are those of
    `draw_truth`.
    """
    truth = draw_truth(
        subjects, prompts=prompts, images=images, device=device, advance=advance, examples=examples
    )
    drawn = list(truth)
    scores = pd.concat([score_truth(each) for each in drawn], ignore_index=True)
    metrics = [load_metric(name) for name in METRICS]
    return Validity(
        validity_record(subjects, prompts=prompts, images=images, device=device)
        | {"pictures": sum(len(each.images) for each in drawn)},
        kind_means(scores),
        orders(scores, metrics),
        correlations(scores, metrics),
        detectable_shares(scores, metrics, trials=trials),
        limit_agreement(drawn),
    )


def validity_record(
    subjects: Sequence[Subject], *, prompts: int | None, images: int, device: str
) -> dict[str, Any]:
    """Return the inputs that the tables depend on, without drawing."""
    return {
        "version": VERSION,
        "world": DRAWINGS_VERSION,
        "subjects": [subject.name for subject in subjects],
        "prompts": prompts,
        "images": images,
        "encoders": {role: e.fingerprint for role, e in truth_encoders(device).items()},
    }


def kind_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each metric's mean over subjects for each kind of image, with its 95% interval."""
    by_subject = scores.groupby(["metric", "kind", "subject"], sort=False)["value"].mean()
    rows = []
    for (metric, kind), own in by_subject.reset_index().groupby(["metric", "kind"], sort=False):
        rows.append({"metric": metric, "kind": kind} | over_subjects(own["value"].to_numpy()))
    table = pd.DataFrame(rows)
    order = {kind: number for number, kind in enumerate((*KINDS, *CLASS_KINDS))}
    return table.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")


def orders(scores: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return how often each metric ranks two images in the right order, for each question.

    This is the share of pairs of one subject and prompt, where ties count half, as mean over
    subjects with a 95% interval; 0.5 is chance. `asked`: whether the metric promises this order.
    """
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        own = scores.loc[scores["metric"] == metric.name]
        cells = {
            key: group["value"].to_numpy() * (1 if metric.higher_is_better else -1)
            for key, group in own.groupby(["kind", "subject", "prompt"], sort=False)
        }
        for number, question in enumerate(ORDER_QUESTIONS):
            shares: dict[str, list[float]] = {}
            for (kind, subject, prompt), better in cells.items():
                worse = cells.get((question.worse, subject, prompt))
                if kind == question.better and worse is not None:
                    above = np.sign(better[:, None] - worse[None, :])
                    shares.setdefault(str(subject), []).append(float((above.mean() + 1) / 2))
            if not shares:
                continue
            values = np.array([np.mean(own) for own in shares.values()])
            rows.append(
                {
                    "metric": metric.name,
                    "question": number,
                    "text": question.text,
                    "better": question.better,
                    "worse": question.worse,
                    "asked": metric.compares in question.asked_of,
                }
                | over_subjects(values)
            )
    return pd.DataFrame(rows)


def correlations(scores: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Return each metric's rank correlation (Spearman) with the truth, within a subject.

    For images in the right place with exchanged parts of the identity ("altered"): the correlation
    with the correctness of the whole identity, and of each part. For the subject and another of its
    class, in right and wrong places: the correlation with whether the prompt is shown. Values are
    means over subjects with a 95% interval; 1 is perfect agreement, 0 none.
    """
    aspects = ["identity_error", *(f"error_{part}" for part in PARTS)]
    crossed = ["perfect", "wrong place", "other identity", "other identity wrong place"]
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        own = scores.loc[scores["metric"] == metric.name]
        altered = own.loc[own["kind"] == "altered"]
        placed = own.loc[own["kind"].isin(crossed)]
        # One image each, so that all kinds have equal weight.
        placed = placed.loc[placed["number"] == 0]
        sign = 1.0 if metric.higher_is_better else -1.0
        for aspect in aspects:
            found = _by_subject(altered, -altered[aspect] * sign)
            name = "identity" if aspect == "identity_error" else aspect.removeprefix("error_")
            rows.append({"metric": metric.name, "with": name} | over_subjects(found))
        found = _by_subject(placed, placed["shows_prompt"].astype(float) * sign)
        rows.append({"metric": metric.name, "with": "context"} | over_subjects(found))
    return pd.DataFrame([row for row in rows if row["subjects"]])


def _by_subject(scores: pd.DataFrame, truth: pd.Series[float]) -> NDArray[np.float64]:
    """Return the rank correlation within each subject whose truth varies."""
    found = []
    for _, group in scores.groupby("subject", sort=False):
        known = truth.loc[group.index]
        if known.nunique() > 1:
            found.append(rank_correlation(group["value"], known))
    return np.asarray(found, dtype=float)
