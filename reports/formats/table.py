"""Table: rows as people read them with their numbers unrounded, and the forms it is written in."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dbbench.evaluation.metric import Metric
from dbbench.files import write_text
from dbbench.reports.formats.latex import latex_table

NOT_KNOWN = "-"


@dataclass(frozen=True)
class Table:
    """One table: as people read it, and its numbers unrounded."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: pd.DataFrame
    texts: int = 1
    """How many of the first columns are words."""
    note: str = ""
    """What must be known to read it."""


def write_table(table: Table, folder: Path, *, origin: str, banners: Sequence[str] = ()) -> None:
    """Write NAME.csv, .parquet, .md and .tex; `origin` is put before the title in LaTeX."""
    folder.mkdir(parents=True, exist_ok=True)
    data = table.data.assign(banner="; ".join(banners)) if banners else table.data
    write_parquet(data, folder / f"{table.name}.parquet")
    write_text(folder / f"{table.name}.csv", data.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{table.name}.md", markdown_table(table, banners))
    write_text(folder / f"{table.name}.tex", tex(table, origin=origin, banners=banners))


def tex(table: Table, *, origin: str, banners: Sequence[str] = ()) -> str:
    """Return the table for LaTeX with booktabs."""
    caption = ". ".join(filter(None, [f"{origin}: {table.title}", *banners]))
    return latex_table(table.name, caption, table.header, table.rows, table.texts)


def markdown_table(table: Table, banners: Sequence[str] = ()) -> str:
    """Return the table under its title and banners as Markdown."""
    text = io.StringIO()
    text.write(f"## {cell(table.title[0].upper() + table.title[1:])}\n\n")
    text.writelines(f"**{cell(banner)}**\n\n" for banner in banners)
    text.write(f"| {' | '.join(map(cell, table.header))} |\n")
    right = len(table.header) - table.texts
    text.write(f"|{'---|' * table.texts}{'---:|' * right}\n")
    text.writelines(f"| {' | '.join(map(cell, row))} |\n" for row in table.rows)
    if table.note:
        text.write(f"\n{cell(table.note)}\n")
    return text.getvalue()


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a score as tables show it: three decimals, "-" where there is none."""
    if value is None or pd.isna(value):
        return NOT_KNOWN
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return "low to high", "-" where there is no interval."""
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return NOT_KNOWN
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}"


def p_value(value: float | None) -> str:
    """Return a p-value as tables show it."""
    if value is None or pd.isna(value):
        return NOT_KNOWN
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def arrowed(metric: Metric) -> str:
    """Return the metric's label with the direction that is better."""
    return f"{metric.label} {'↑' if metric.higher_is_better else '↓'}"


def rank(row: Mapping[Any, Any], metric: Metric) -> str:
    """Return "1", "1=" where the rank is shared, "" where there is none."""
    value = row[f"{metric.name}_rank"]
    if pd.isna(value):
        return ""
    return f"{int(value)}{'=' if row[f'{metric.name}_tied'] else ''}"


def cell(text: str) -> str:
    """Escape what Markdown or an HTML reader of it would take for markup."""
    for mark, replacement in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, replacement)
    return text


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)


def percent(value: float | None) -> str:
    """Return a share as tables show it."""
    return NOT_KNOWN if value is None else f"{100 * value:.0f}%"


def span(low: float | None, high: float | None) -> str:
    """Return "64 to 72", "-" where there is no interval."""
    return NOT_KNOWN if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}"
