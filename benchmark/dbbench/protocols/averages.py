"""Scores of several protocols -> means, paired differences and coverage (pandas)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dbbench.data.dataset import Dataset
from dbbench.data.subject import Subject
from dbbench.evaluation.decision import detectable_difference
from dbbench.evaluation.leaderboard import DIFFERENCE, NUMBERS, compare_scores
from dbbench.evaluation.scores import REAL
from dbbench.evaluation.statistics import Interval, subject_interval
from dbbench.image_sets.image_set import Picture
from dbbench.protocols.protocol import Protocol
from dbbench.protocols.roles import Cast

SUMMARY = [
    *("protocol", "method", "metric", "value", "low", "high"),
    *("detectable", "subjects", "images", "encoder"),
]


def summarise(scores: pd.DataFrame, cast: Cast) -> pd.DataFrame:
    """Return one row per protocol, method and metric, averaged by the protocol's rule.

    `detectable` is the smallest difference from a fixed number, such as a published mean, that a
    test on these subjects detects with 80% power.
    """
    rows = []
    readings = {protocol.name: protocol for protocol in cast.protocols}
    for (name, method, metric), own in scores.groupby(
        ["protocol", "method", "metric"], sort=False, observed=True
    ):
        protocol = readings[str(name)]
        role = next(m.role for m in cast.metrics[protocol.name] if m.name == metric)
        value, interval = average(own, protocol)
        rows.append(
            {
                "protocol": name,
                "method": method,
                "metric": metric,
                "value": value,
                "low": interval.low,
                "high": interval.high,
                "detectable": detectable_difference(_by_subject(own, protocol)["mean"]),
                "subjects": own["subject"].nunique(),
                "images": len(own),
                "encoder": cast.encoders[protocol.name, role],
            }
        )
    table = pd.DataFrame(rows, columns=SUMMARY)
    return table.astype(dict.fromkeys(("value", "low", "high", "detectable"), "float64"))


def average(scores: pd.DataFrame, protocol: Protocol) -> tuple[float, Interval]:
    """Return the mean of one metric's values by the protocol's rule, with its 95% interval."""
    subjects = _by_subject(scores, protocol)
    weights = subjects["weight"].to_numpy()
    values = subjects["mean"].to_numpy()
    return float(np.average(values, weights=weights)), subject_interval(values, weights=weights)


def compare_methods(scores: pd.DataFrame, cast: Cast) -> pd.DataFrame:
    """Compare each pair of methods on the subjects, prompts and seeds that both have."""
    rows: list[dict[str, Any]] = []
    for protocol in cast.protocols:
        for metric in cast.measures(protocol):
            own = scores[(scores["protocol"] == protocol.name) & (scores["metric"] == metric.name)]
            tables = {
                str(method): part
                for method, part in own.groupby("method", sort=False)
                if method != REAL
            }
            found = compare_scores(tables, metric, partial(_means, protocol=protocol))
            for row in found:
                needed = detectable_difference(row["by_subject"], comparisons=row["comparisons"])
                named = {"protocol": protocol.name, "metric": metric.name, "detectable": needed}
                rows.append(row | named)
    columns = ["protocol", "metric", *DIFFERENCE, "detectable"]
    numbers = dict.fromkeys([*NUMBERS, "detectable"], "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def count_coverage(pictures: Sequence[Picture], dataset: Dataset) -> pd.DataFrame:
    """Return how many of the data set's prompts each method and subject has."""
    rows = []
    subjects = {subject.name: subject for subject in dataset.subjects}
    found: dict[tuple[str, str], list[Picture]] = {}
    for picture in pictures:
        found.setdefault((picture.method, picture.subject), []).append(picture)
    for (method, subject), own in found.items():
        counts = pd.Series([picture.prompt for picture in own]).value_counts()
        other = Subject(subject, own[0].class_noun, live=False)
        prompts = [prompt.id for prompt in dataset.prompts(subjects.get(subject, other))]
        missing = [prompt for prompt in prompts if prompt not in counts]
        rows.append(
            {
                "method": method,
                "subject": subject,
                "images": len(own),
                "prompts": len(prompts) - len(missing),
                "prompts_planned": len(prompts),
                "other_prompts": int((~counts.index.isin(prompts)).sum()),
                "fewest_per_prompt": int(counts.min()),
                "most_per_prompt": int(counts.max()),
                "missing_prompts": ", ".join(missing),
            }
        )
    return pd.DataFrame(rows)


def _means(scores: pd.DataFrame, protocol: Protocol) -> pd.Series[float]:
    return _by_subject(scores, protocol)["mean"]


def _by_subject(scores: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Return each subject's mean and its weight in the mean over all."""
    by_pair = protocol.aggregation == "pair"
    weights = scores["pairs"].astype(float) if by_pair else scores["value"] * 0.0 + 1.0
    table = pd.DataFrame(
        {
            "subject": scores["subject"],
            "sum": scores["value"] * weights,
            "weight": weights,
        }
    ).groupby("subject", sort=False)[["sum", "weight"]]
    totals = table.sum()
    totals["mean"] = totals["sum"] / totals["weight"]
    if protocol.aggregation == "subject":
        totals["weight"] = 1.0
    return totals
