"""Scores one set of images under several protocols: features in, tables out.

This module reads no images and prints nothing. Values include each protocol's limit and factor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dbbench.evaluation.flags import ONE_COLOUR, find_flags
from dbbench.evaluation.metric import Metric, evaluate_from, score_real
from dbbench.evaluation.one_colour import say_of_one_colour
from dbbench.evaluation.scores import REAL
from dbbench.image_sets.image_set import Picture, Submission
from dbbench.protocols.averages import compare_methods, count_coverage, summarise
from dbbench.protocols.encoding import Encodings, Group, group_pictures
from dbbench.protocols.protocol import Protocol
from dbbench.protocols.roles import Cast

KEYS = ["protocol", "method", "subject", "class_noun", "kind", "seed", "prompt", "category"]
SCORE_COLUMNS = [*KEYS, "image", "metric", "value", "pairs"]
FLAGGED = [
    "flag",
    "method",
    "subject",
    "seed",
    "prompt",
    "image",
    "value",
    "ceiling",
    "nearest",
]


SHOWN = 4
"""Names of files in a line that warns of them; the table of flags has all."""
WITH_REAL = frozenset({"references", "distances", "class-images"})
"""Comparisons with the subject's real images."""


@dataclass(frozen=True)
class Reconciliation:
    """The tables of one call of `dbbench score`.

    `scores`: one row per protocol, image and metric, with the number of pairs behind the value.
    `summary`: one row per protocol, method and metric; the oracle's method is `real-images`.
    `differences`: paired by subject, one row per protocol, metric and two methods, the better one
    first. `flags`: images and prompts above their subject's ceiling, and images of one colour.
    `coverage`: one row per method and subject. `notes`: one line for each reason why something is
    not scored. `warnings`: one line for each thing that is scored and should be looked at.
    """

    cast: Cast
    scores: pd.DataFrame
    summary: pd.DataFrame
    differences: pd.DataFrame
    flags: pd.DataFrame
    coverage: pd.DataFrame
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def reconcile(
    cast: Cast,
    submission: Submission,
    references: Mapping[str, Sequence[Path]],
    encodings: Encodings,
) -> Reconciliation:
    """Score the images under every protocol of the cast. Invalid image files are left out."""
    pictures = [p for p in submission.pictures if p.image not in encodings.refused]
    whole = {
        subject: [file for file in files if file not in encodings.refused]
        for subject, files in references.items()
    }
    groups = group_pictures(pictures)
    missing: dict[str, list[tuple[Metric, Protocol]]] = {}
    rows: list[dict[str, Any]] = []
    flags: list[dict[str, Any]] = []
    for protocol in cast.protocols:
        for metric in cast.metrics[protocol.name]:
            encoder, reason = playable(cast, protocol, metric, encodings)
            if encoder is None:
                missing.setdefault(reason, []).append((metric, protocol))
                continue
            for group, own in groups.items():
                real = whole.get(group[1], [])
                if metric.compares in WITH_REAL and not real:
                    reason = f'no reference images of "{group[1]}"'
                    missing.setdefault(reason, []).append((metric, protocol))
                    continue
                values, pairs = _values(protocol, metric, encoder, group, own, real, encodings)
                if metric.flag:
                    flags.extend(_flagged(metric, encoder, own, real, values, encodings))
                    continue
                rows.extend(
                    _row(protocol, metric, picture, value, pairs)
                    for picture, value in zip(own, values, strict=True)
                    if not math.isnan(value)
                )
            if not metric.flag:
                rows.extend(_real_rows(protocol, metric, encoder, whole, pictures, encodings))
    blank = [picture for picture in pictures if picture.image in encodings.of_one_colour]
    flags.extend(map(_one_colour, blank))
    scores = pd.DataFrame(rows, columns=SCORE_COLUMNS)
    scores["seed"] = scores["seed"].astype("Int64")
    return Reconciliation(
        cast=cast,
        scores=scores,
        summary=summarise(scores, cast),
        differences=compare_methods(scores, cast),
        flags=pd.DataFrame(flags, columns=FLAGGED).astype({"seed": "Int64"}),
        coverage=count_coverage(pictures, submission.dataset),
        notes=explain_missing(missing),
        warnings=(
            *encodings.cut,
            *_say_blank_pictures(pictures, blank),
            *say_blank_references(whole, encodings),
        ),
    )


def say_blank_references(
    references: Mapping[str, Sequence[Path]], encodings: Encodings
) -> Iterator[str]:
    """Yield a line on each subject that has reference images of one colour."""
    for subject, files in references.items():
        if blank := [file.name for file in files if file in encodings.of_one_colour]:
            whose = f"reference images of {subject}"
            yield f"{say_of_one_colour(len(blank), len(files), whose)}: {_listed(blank)}"


def explain_missing(missing: Mapping[str, Sequence[tuple[Metric, Protocol]]]) -> tuple[str, ...]:
    """Return one line for each reason, with the metrics and protocols that are not scored."""
    lines = []
    for reason, cases in missing.items():
        protocols: dict[str, dict[str, None]] = {}
        for metric, protocol in cases:
            protocols.setdefault(metric.label, {})[protocol.name] = None
        what = ", ".join(f"{label} ({', '.join(names)})" for label, names in protocols.items())
        lines.append(f"not scored: {what}: {reason}")
    return tuple(lines)


def playable(
    cast: Cast, protocol: Protocol, metric: Metric, encodings: Encodings
) -> tuple[str | None, str]:
    """Return the encoder of a metric, or None and the reason."""
    encoder = cast.encoder(protocol, metric)
    if encoder is None:
        return None, f"no encoder for role {metric.role}; add --encoder {metric.role}=NAME"
    if encoder in encodings.missing and not (
        encoder in encodings.vectors and metric.compares != "text"
    ):
        return None, encodings.missing[encoder]
    return encoder, ""


def _values(
    protocol: Protocol,
    metric: Metric,
    encoder: str,
    group: Group,
    pictures: Sequence[Picture],
    real: Sequence[Path],
    encodings: Encodings,
) -> tuple[list[float], int]:
    """Return a value for each picture, or NaN, and the number of pairs of each value."""
    compared = list(real if protocol.references == "all" or metric.flag else real[:1])
    with_real, count = metric.compares in WITH_REAL, len(pictures)
    between = encodings.distances.get(encoder, {}).get(group)
    plain = evaluate_from(
        metric,
        [picture.prompt for picture in pictures],
        images=lambda: encodings.stack(encoder, [picture.image for picture in pictures]),
        references=lambda: encodings.stack(encoder, compared),
        texts=lambda: np.stack([encodings.texts[encoder][p.text(protocol.text)] for p in pictures]),
        distances=None if between is None else between[:count, : count + len(compared)],
    )
    return [protocol.value(metric.name, float(v)) for v in plain], len(compared) if with_real else 1


def _row(
    protocol: Protocol, metric: Metric, picture: Picture, value: float, pairs: int
) -> dict[str, Any]:
    return {
        "protocol": protocol.name,
        "method": picture.method,
        "subject": picture.subject,
        "class_noun": picture.class_noun,
        "kind": picture.kind,
        "seed": picture.seed,
        "prompt": picture.prompt,
        "category": picture.category,
        "image": picture.name,
        "metric": metric.name,
        "value": value,
        "pairs": pairs,
    }


def _real_rows(
    protocol: Protocol,
    metric: Metric,
    encoder: str,
    references: Mapping[str, Sequence[Path]],
    pictures: Sequence[Picture],
    encodings: Encodings,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the real images, for the subjects of the pictures."""
    subjects = {picture.subject: picture for picture in pictures}
    for subject, picture in subjects.items():
        files = references.get(subject, ())
        values, pairs = real_values(protocol, metric, encoder, files, encodings)
        for file, value in zip(files[len(files) - len(values) :], values, strict=True):
            yield _row(protocol, metric, picture, value, pairs) | {
                "method": REAL,
                "seed": None,
                "prompt": None,
                "category": None,
                "image": file.name,
            }


def real_values(
    protocol: Protocol,
    metric: Metric,
    encoder: str,
    files: Sequence[Path],
    encodings: Encodings,
    *,
    self_pairs: bool | None = None,
) -> tuple[list[float], int]:
    """Return the values of real images under a protocol, and the number of pairs of each value.

    If there is one value less than there are files, the first file has no value.
    """
    if metric.compares != "references" or not files or encoder in encodings.distances:
        return [], 0
    with_self = protocol.self_pairs if self_pairs is None else self_pairs
    against = 1 if protocol.references == "first" else None
    plain = score_real(
        metric, encodings.stack(encoder, files), against=against, self_pairs=with_self
    )
    pairs = against or len(files) - (not with_self)
    return [protocol.value(metric.name, float(value)) for value in plain], pairs


def _say_blank_pictures(pictures: Sequence[Picture], blank: Sequence[Picture]) -> Iterator[str]:
    totals = Counter(picture.method for picture in pictures)
    for method in dict.fromkeys(picture.method for picture in blank):
        own = [picture.name for picture in blank if picture.method == method]
        line = say_of_one_colour(len(own), totals[method], f"images of {method}")
        yield f"{line}; they are scored like the others: {_listed(own)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _one_colour(picture: Picture) -> dict[str, Any]:
    return {
        "flag": ONE_COLOUR,
        "method": picture.method,
        "subject": picture.subject,
        "seed": picture.seed,
        "prompt": picture.prompt,
        "image": picture.name,
    }


def _flagged(
    metric: Metric,
    encoder: str,
    pictures: Sequence[Picture],
    real: Sequence[Path],
    values: Sequence[float],
    encodings: Encodings,
) -> Iterator[dict[str, Any]]:
    """Yield the images, or for siblings the prompts, above the subject's real-real ceiling."""
    if not real:
        return
    prompts = [picture.prompt for picture in pictures]
    images = encodings.stack(encoder, [picture.image for picture in pictures])
    of_prompt = metric.compares == "siblings"
    for flag in find_flags(
        metric, prompts, np.asarray(values), images, encodings.stack(encoder, real)
    ):
        picture = pictures[flag.row]
        yield {
            "flag": metric.flag,
            "method": picture.method,
            "subject": picture.subject,
            "seed": picture.seed,
            "prompt": picture.prompt,
            "image": None if of_prompt else picture.name,
            "value": flag.value,
            "ceiling": flag.ceiling,
            "nearest": None if of_prompt else real[flag.nearest].name,
        }
