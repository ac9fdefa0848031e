"""Results -> OUT/report/index.html: one page that asks nothing of any network."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from dbbench.artifact import write_text
from dbbench.leaderboard import SIGNIFICANCE
from dbbench.metric import Metric
from dbbench.scores import REAL
from dbbench.subject import select_subjects

from .flags import find_flags, measured
from .gallery import SubjectPictures, make_pictures
from .paper import judge, paper_rows
from .plots import Plot, draw_plots
from .provenance import credits_of, facts_of
from .results import Results, columns_of
from .study import Preferences, percent, span
from .table import arrowed, interval, number, p_value, rank
from .tables import HOW
from .training import read_curves

REPORT = "report"
PAGE = "index.html"
EXTREMES = 4
"""Subjects shown as the easiest, and as many as the hardest."""
FLAGS = 12
"""Flagged images shown of each kind."""


@dataclass(frozen=True)
class Bar:
    """An interval drawn on a scale of 0 to 100; `low` and `high` are None where there is none."""

    value: float
    low: float | None
    high: float | None
    zero: float | None = None


def write_page(
    results: Results, price: float | None = None, study: Preferences | None = None
) -> Path:
    """Write pictures and plots, then the page that shows them; return the page.

    `price` is what an hour of the device costs.
    """
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
    plots = draw_plots(results, report, read_curves(results))
    context = _context(results, pictures, plots, price) | {"study": study or Preferences(())}
    page = environment().get_template("index.html.j2").render(context)
    write_text(report / PAGE, page)
    return report / PAGE


def environment() -> Environment:
    """Return where templates come from; everything put into them is escaped."""
    environment = Environment(
        loader=PackageLoader("dbbench.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=number, interval=interval, p_value=p_value, arrowed=arrowed, rank=rank,
        percent=percent, span=span,
    )  # fmt: skip
    environment.filters["url"] = quote
    return environment


def shared_context(results: Results) -> dict[str, Any]:
    """Return what every page needs: its style, the suite, its banner."""
    return {"suite": results.suite, "banner": results.banner, "style": style()}


def style() -> str:
    """Return the style sheet, which every page holds in itself."""
    return files("dbbench.reports").joinpath("style.css").read_text(encoding="utf-8")


def _context(
    results: Results,
    pictures: tuple[SubjectPictures, ...],
    plots: Mapping[str, Plot],
    price: float | None,
) -> dict[str, Any]:
    board = results.leaderboard
    folder = files("dbbench.reports")
    methods = [str(method) for method in board.ranking["method"] if method != REAL]
    return shared_context(results) | {
        "how": HOW,
        "reasons": board.reasons,
        "metrics": [(metric, arrowed(metric)) for metric in results.metrics],
        "methods": methods,
        "colours": {REAL: "oracle"} | {m: f"m{i % 8}" for i, m in enumerate(methods)},
        "real": REAL,
        "images": int(board.ranking.loc[board.ranking["method"] != REAL, "images"].sum()),
        "expectation": board.expectation,
        "planned": len(select_subjects(results.suite.subjects)),
        "ranking": _ranking(results),
        "differences": _differences(results),
        "published": results.published().to_dict("records"),
        "expected": _expected(results),
        "paper": paper_rows(results),
        "verdicts": judge(results),
        "matrices": [_matrix(results, "subject"), _matrix(results, "prompt")],
        "extremes": _extremes(results, pictures),
        "flags": _flags(results, pictures),
        "plots": plots,
        "label": results.label,
        "pictures": pictures,
        "scores": _prompt_scores(results),
        "credits": credits_of(pictures),
        "facts": facts_of(results, price),
        "suite_json": json.dumps(results.record.get("suite"), indent=2, ensure_ascii=False),
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


def _matrix(results: Results, column: Literal["subject", "prompt"]) -> dict[str, Any]:
    """Means by subject or prompt, grouped by metric, each with its place between its extremes."""
    table = results.means_by(column)
    columns = columns_of(table)
    kinds = dict(results.scores[["subject", "kind"]].drop_duplicates().to_numpy())
    texts = {p.id: p for live in (False, True) for p in results.suite.prompts.of(live)}
    limits = {
        metric.name: _scale(_drawn(table, metric).to_numpy().ravel(), pad=0.0)
        for metric in results.metrics
        if metric.name in table.columns
    }
    rows = []
    for name, values in zip(map(str, table.index), table.to_numpy(dtype=float), strict=True):
        cells = []
        for (metric, method), found in zip(columns, values, strict=True):
            value, (low, high) = _known(found), limits[metric]
            # The oracle is no competitor: tinted too, it would leave the methods hardly apart.
            competes = value is not None and method != REAL
            place = round((found - low) / (high - low), 3) if competes else 0.0
            cells.append((value, place))
        about = texts[name].category if name in texts else kinds.get(name, "")
        rows.append({"name": name, "about": about, "cells": cells})
    groups = [
        (metric, [str(method) for name, method in columns if name == metric.name])
        for metric in results.metrics
    ]
    return {"what": column, "groups": [(m, g) for m, g in groups if g], "rows": rows}


def _drawn(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return a metric's columns without the oracle's."""
    return pd.DataFrame(table[metric.name].drop(columns=REAL, errors="ignore"))


def _extremes(
    results: Results, pictures: Iterable[SubjectPictures]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the easiest and the hardest subjects by the first metric, over all methods."""
    metric, table = results.metrics[0], results.means_by("subject")
    if metric.name not in table.columns:
        return []
    own = _drawn(table, metric)
    means = own.mean(axis=1).dropna().sort_values(ascending=not metric.higher_is_better)
    if len(means) < 2:
        return []
    count = min(EXTREMES, len(means) // 2)
    shown = {subject.name: subject for subject in pictures}
    chosen = (("Easiest", means.index[:count]), ("Hardest", means.index[::-1][:count]))
    return [
        (
            title,
            [
                {
                    "name": name,
                    "picture": shown[name],
                    "mean": means[name],
                    "by_method": [(str(m), _known(v)) for m, v in own.loc[name].items()],
                }
                for name in names
                if name in shown
            ],
        )
        for title, names in chosen
    ]


def _flags(results: Results, pictures: Iterable[SubjectPictures]) -> dict[str, Any]:
    """Return how many images and prompts are flagged by method, and the most striking to show."""
    flags = find_flags(results)
    shown = {subject.name: subject for subject in pictures}
    counts = Counter((flag.method, flag.kind) for flag in flags)
    worst = []
    for kind in ("copy", "collapse"):
        for flag in [flag for flag in flags if flag.kind == kind][:FLAGS]:
            subject = shown[flag.subject]
            sheet = next((s for s in subject.sheets if s.method == flag.method), None)
            if sheet is not None:
                worst.append({"flag": flag, "sheet": sheet, "subject": subject})
    methods = [str(m) for m in results.leaderboard.ranking["method"] if m != REAL]
    known = measured(results)
    table = [
        (m, *((counts[m, kind] if m in known else None) for kind in ("copy", "collapse")))
        for m in methods
    ]
    return {"table": table, "worst": worst, "any": bool(flags)}


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
