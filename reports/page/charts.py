"""Numbers as the page draws them: intervals on a scale, and tinted means by subject or prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from dbbench.evaluation.metric import Metric
from dbbench.evaluation.scores import REAL
from dbbench.reports.formats.table import rank
from dbbench.reports.results import Results, columns_of


@dataclass(frozen=True)
class Bar:
    """A value with its interval, in percent of the scale's width; None without an interval."""

    value: float
    low: float | None
    high: float | None
    zero: float | None = None


def ranking_rows(results: Results) -> list[dict[str, Any]]:
    """Return the leaderboard's rows; each cell has its interval on its metric's scale."""
    table = results.leaderboard.ranking
    rows = []
    for row in table.to_dict("records"):
        cells = []
        for metric in results.metrics:
            value, low, high = (known(row[f"{metric.name}{end}"]) for end in ("", "_low", "_high"))
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


def difference_rows(results: Results) -> list[dict[str, Any]]:
    """Return the paired differences by metric, each on its metric's scale with zero."""
    table = results.leaderboard.differences
    rows = []
    for metric in results.metrics:
        own = table.loc[table["metric"] == metric.name]
        scale = _scale([0.0, *own[["difference", "low", "high"]].to_numpy().ravel()])
        for row in own.to_dict("records"):
            low, high = known(row["low"]), known(row["high"])
            value = float(row["difference"])
            if not math.isfinite(value):
                continue
            bar = _bar(value, low, high, scale)
            drawn = {"label": metric.label, "bar": bar}
            rows.append({str(key): value for key, value in row.items()} | drawn)
    return rows


def matrix_of(results: Results, column: Literal["subject", "prompt"]) -> dict[str, Any]:
    """Return means by subject or prompt, grouped by metric, each scaled between the extremes."""
    table = results.means_by(column)
    columns = columns_of(table)
    kinds = dict(results.scores[["subject", "kind"]].drop_duplicates().to_numpy())
    texts = results.prompts
    limits = {
        metric.name: _scale(drawn(table, metric).to_numpy().ravel(), pad=0.0)
        for metric in results.metrics
        if metric.name in table.columns
    }
    rows = []
    for name, values in zip(map(str, table.index), table.to_numpy(dtype=float), strict=True):
        cells = []
        for (metric, method), found in zip(columns, values, strict=True):
            value, (low, high) = known(found), limits[metric]
            # The oracle is not tinted: its high scores would hide the differences between methods.
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


def drawn(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return a metric's columns without the oracle's."""
    return pd.DataFrame(table[metric.name].drop(columns=REAL, errors="ignore"))


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


def known(value: Any) -> float | None:
    """Return the value as a float; None if it is missing."""
    return None if pd.isna(value) else float(value)
