"""Results -> OUT/report/index.html: one page that asks nothing of any network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from dbbench.artifact import write_text
from dbbench.leaderboard import SIGNIFICANCE
from dbbench.metric import Metric
from dbbench.protocol import load_protocol
from dbbench.scores import REAL

from .gallery import Sheet, SubjectPictures, make_pictures
from .results import Results
from .tables import HOW, arrowed, interval, number, p_value, rank, subject_matrix

REPORT = "report"
PAGE = "index.html"


@dataclass(frozen=True)
class Bar:
    """An interval drawn on a scale of 0 to 100; `low` and `high` are None where there is none."""

    value: float
    low: float | None
    high: float | None
    zero: float | None = None


def write_page(results: Results) -> Path:
    """Write the pictures, then the page that shows them; return the page."""
    report = results.out / REPORT
    board = results.leaderboard
    methods = [method for method in board.ranking["method"] if method != REAL]
    pictures = make_pictures(
        results.out,
        report,
        subjects=board.expectation.subjects,
        methods=methods,
        seeds=board.expectation.seeds,
    )
    page = _environment().get_template("index.html.j2").render(_context(results, pictures))
    write_text(report / PAGE, page)
    return report / PAGE


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dbbench.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=number, interval=interval, p_value=p_value, sheet_at=_sheet_at
    )
    environment.filters["url"] = quote
    return environment


def _context(results: Results, pictures: tuple[SubjectPictures, ...]) -> dict[str, Any]:
    board = results.leaderboard
    folder = files("dbbench.reports")
    methods = [str(method) for method in board.ranking["method"] if method != REAL]
    return {
        "suite": results.suite,
        "banner": results.banner,
        "how": HOW,
        "reasons": board.reasons,
        "metrics": [(metric, arrowed(metric)) for metric in results.metrics],
        "methods": methods,
        "colours": {REAL: "oracle"} | {m: f"m{i % 8}" for i, m in enumerate(methods)},
        "real": REAL,
        "images": int(board.ranking.loc[board.ranking["method"] != REAL, "images"].sum()),
        "expectation": board.expectation,
        "ranking": _ranking(results),
        "differences": _differences(results),
        "published": results.published().to_dict("records"),
        "expected": _expected(results),
        "matrix": _matrix(results),
        "pictures": pictures,
        "scores": _prompt_scores(results),
        "credits": _credits(pictures),
        "facts": _facts(results),
        "suite_json": json.dumps(results.record.get("suite"), indent=2, ensure_ascii=False),
        "style": folder.joinpath("style.css").read_text(encoding="utf-8"),
        "script": folder.joinpath("templates", "gallery.js").read_text(encoding="utf-8"),
    }


def _ranking(results: Results) -> list[dict[str, Any]]:
    table = results.leaderboard.ranking
    rows = []
    for row in table.to_dict("records"):
        cells = []
        for metric in results.metrics:
            value, low, high = (_known(row[f"{metric.name}{end}"]) for end in ("", "_low", "_high"))
            bounds = [f"{metric.name}{end}" for end in ("", "_low", "_high")]
            scale = _scale(table[bounds].to_numpy().ravel())
            cells.append(
                {
                    "metric": metric,
                    "value": value,
                    "low": low,
                    "high": high,
                    "rank": rank(row, metric),
                    "bar": None if value is None else _bar(value, low, high, scale),
                }
            )
        rows.append({str(key): value for key, value in row.items()} | {"cells": cells})
    return rows


def _differences(results: Results) -> list[dict[str, Any]]:
    """The paired differences, metric by metric, each drawn on its metric's scale with zero."""
    table = results.leaderboard.differences
    rows = []
    for metric in results.metrics:
        own = table.loc[table["metric"] == metric.name]
        scale = _scale([0.0, *own[["difference", "low", "high"]].to_numpy().ravel()])
        for row in own.to_dict("records"):
            low, high, p = (_known(row[key]) for key in ("low", "high", "p_holm"))
            value = float(row["difference"])
            if not math.isfinite(value):
                continue
            bar = _bar(value, low, high, scale)
            significant = p is not None and p < SIGNIFICANCE
            drawn = {"label": metric.label, "bar": bar, "significant": significant}
            rows.append({str(key): value for key, value in row.items()} | drawn)
    return rows


def _matrix(results: Results) -> dict[str, Any]:
    """The means by subject: columns grouped by metric, each value with its place in its metric."""
    order, table = subject_matrix(results)
    kinds = results.leaderboard.subjects.drop_duplicates("subject").set_index("subject")
    limits = {
        metric.name: _scale(table[metric.name].to_numpy().ravel(), pad=0.0)
        for metric in results.metrics
        if metric.name in table.columns
    }
    rows = []
    for subject in table.index:
        cells = []
        for metric, method in order:
            value = _known(table.loc[subject, (metric, method)])
            low, high = limits[metric]
            place = 0.0 if value is None else (value - low) / (high - low)
            cells.append((value, round(place, 3)))
        known = subject in kinds.index
        kind = str(kinds.loc[subject, "kind"]) if known else ""
        rows.append({"subject": subject, "kind": kind, "cells": cells})
    groups = [
        (metric, [method for name, method in order if name == metric.name])
        for metric in results.metrics
    ]
    return {"groups": [(m, names) for m, names in groups if names], "rows": rows}


def _prompt_scores(results: Results) -> Mapping[tuple[str, str, str], str]:
    """Return what stands under a strip: the means of each metric over its images."""
    scores = results.scores.loc[results.scores["prompt"].notna()]
    scores = scores.loc[scores["seed"].isin(results.leaderboard.expectation.seeds)]
    keys = ["method", "subject", "prompt", "metric"]
    means = scores.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()
    labels = {metric.name: metric.label for metric in results.metrics}
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in means.to_dict("records"):
        if row["metric"] in labels:
            line = f"{labels[row['metric']]} {row['value']:.2f}"
            found.setdefault((row["method"], row["subject"], row["prompt"]), []).append(line)
    return {key: " · ".join(lines) for key, lines in found.items()}


def _expected(results: Results) -> list[dict[str, Any]]:
    """What the suite says its recipe should reach, beside what was found here."""
    found = results.leaderboard.ranking.set_index("method")
    return [
        {
            "method": expected.method,
            "label": metric.label,
            "expected": expected.scores[metric.name],
            "found": _known(found.loc[expected.method, metric.name])
            if expected.method in found.index
            else None,
            "source": expected.source,
        }
        for expected in results.suite.expected
        for metric in results.metrics
        if metric.name in expected.scores
    ]


def _credits(pictures: Iterable[SubjectPictures]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each subject the credits with the images they hold for, as ("1-4", credit)."""
    found = []
    for subject in pictures:
        numbers: dict[str, list[int]] = {}
        for position, reference in enumerate(subject.references, 1):
            numbers.setdefault(reference.credit, []).append(position)
        lines = [(", ".join(map(str, places)), credit) for credit, places in numbers.items()]
        found.append((subject.name, lines))
    credits = {credit for _, lines in found for _, credit in lines}
    if len(credits) == 1:
        return [("every subject", [("all", credits.pop())])]
    return found


def _facts(results: Results) -> list[tuple[str, str]]:
    """Return where the numbers come from: weights, versions, settings, the reading of the paper."""
    record, suite = results.record, results.suite
    identities = record.get("identities", {})
    encoders = identities.get("encoders", {})
    facts = [
        ("Suite", f"{suite.name}: {suite.description}" if suite.description else suite.name),
        ("Backbone", f"{suite.backbone.path}, {suite.backbone.resolution} px"),
        ("Backbone fingerprint", _at(identities, "backbone", "fingerprint")),
    ]
    for role, reference in suite.encoders.items():
        facts.append((f"Encoder in the role {role}", reference))
        facts.append((f"Fingerprint of {reference}", _at(encoders, role, "fingerprint")))
    for method, found in identities.get("methods", {}).items():
        settings = ", ".join(f"{key}={value}" for key, value in found.get("settings", {}).items())
        facts.append((f"Settings of {method}", settings))
    sample = suite.sample.model_dump(exclude={"batch_size"})
    reading = load_protocol("paper")
    facts += [
        ("Sampling", ", ".join(f"{key}={value}" for key, value in sample.items())),
        ("Run seeds", ", ".join(map(str, results.leaderboard.expectation.seeds))),
        ("Reference images", str(record.get("source", ""))),
        (
            "Reading of the paper",
            f"{reading.name}: each image against {reading.references} reference images, "
            f"prompt text {reading.text.replace('-', ' ')}, real images "
            f"{'with' if reading.self_pairs else 'without'} self-pairs",
        ),
        ("Device", str(record.get("device", ""))),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in facts if value]


def _sheet_at(sheet: Sheet, prompt: tuple[str, str]) -> str | None:
    """Return the CSS position of a prompt's row on a sheet; None where it has no samples."""
    if prompt not in sheet.prompts:
        return None
    return f"{100 * sheet.prompts.index(prompt) / max(1, len(sheet.prompts) - 1):.4g}%"


def _bar(value: float, low: float | None, high: float | None, scale: tuple[float, float]) -> Bar:
    start, width = scale[0], scale[1] - scale[0]

    def place(number: float) -> float:
        return round(100 * (number - start) / width, 2)

    zero = place(0.0) if scale[0] < 0 < scale[1] else None
    has = low is not None and high is not None
    return Bar(
        place(value),
        place(low) if has and low is not None else None,
        place(high) if has and high is not None else None,
        zero,
    )


def _scale(values: Iterable[float], pad: float = 0.06) -> tuple[float, float]:
    known = [float(value) for value in values if not pd.isna(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    margin = (high - low) * pad if high > low else 0.5
    return low - margin, high + margin


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _at(mapping: Mapping[str, Any], key: str, inner: str) -> str:
    return str(mapping.get(key, {}).get(inner, ""))


__all__ = ["Metric", "write_page"]
