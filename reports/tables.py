"""Leaderboard -> Parquet, CSV, Markdown and the terminal; every table carries the banner."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dbbench.artifact import write_text
from dbbench.metric import Metric

from .results import Results

NOT_KNOWN = "-"
HOW = (
    "Mean over subjects of the mean over images, with the 95% interval (bootstrap over subjects). "
    "Methods share a rank unless a paired test over subjects tells them apart (p < 0.05, Holm)."
)


def write_tables(results: Results) -> None:
    """Write leaderboard.{parquet,csv,md}, leaderboard-subjects.* and leaderboard-differences.*."""
    board = results.leaderboard
    tables = {
        "leaderboard": board.ranking,
        "leaderboard-subjects": board.subjects,
        "leaderboard-differences": board.differences,
    }
    for name, table in tables.items():
        _write_parquet(table, results.out / f"{name}.parquet")
        write_text(results.out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(results.out / "leaderboard.md", markdown(results))


def print_tables(results: Results, console: Console) -> None:
    """Print ranking and paired differences, metric by metric, and what is missing."""
    board = results.leaderboard
    ranking = _table("leaderboard", results, "method")
    for column in ("mean", "95%", "rank", "subjects", "images"):
        ranking.add_column(column, justify="right", no_wrap=True)
    for metric in results.metrics:
        ranking.add_row(Text(arrowed(metric), style="bold"))
        for row in board.ranking.to_dict("records"):
            if pd.isna(row[metric.name]) and not row["note"]:
                continue
            cells = [number(row[metric.name]), _interval(row, metric), rank(row, metric)]
            counts = [f"{row['subjects']}/{row['subjects_planned']}", str(row["images"])]
            ranking.add_row(escape(f"  {row['method']}"), *cells, *counts)
        ranking.add_section()
    console.print(ranking)
    differences = _table("paired differences by subject", results, "a - b")
    for column in ("difference", "95%", "p (Holm)"):
        differences.add_column(column, justify="right", no_wrap=True)
    above = ""
    for pair, label, difference, between, _, p_holm, _ in _differences(results)[1]:
        if label != above:
            differences.add_row(Text(label, style="bold"))
        differences.add_row(escape(f"  {pair}"), difference, between, p_holm)
        above = label
    if differences.row_count:
        console.print(differences)
    for reason in board.reasons:
        console.print(escape(reason), style="yellow", highlight=False)


def markdown(results: Results) -> str:
    """Return all tables as one Markdown text."""
    text = io.StringIO()
    text.write(f"# dbbench: {_cell(results.suite.name)}\n")
    for title, header, rows in _sections(results):
        if not rows:
            continue
        text.write(f"\n## {title[0].upper()}{title[1:]}\n\n")
        if results.banner:
            text.write(f"**{_cell(results.banner)}**\n\n")
        text.write(f"| {' | '.join(map(_cell, header))} |\n")
        text.write(f"|---|{'---:|' * (len(header) - 1)}\n")
        text.writelines(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)
    text.write(f"\n{HOW}\n")
    text.writelines(f"\n{_cell(reason)}.\n" for reason in results.leaderboard.reasons)
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


def subject_matrix(results: Results) -> tuple[list[tuple[str, str]], pd.DataFrame]:
    """Return the (metric, method) columns that have values, and the means by subject."""
    board = results.leaderboard
    matrix = board.subjects.pivot(index="subject", columns=["metric", "method"], values="mean")
    matrix = matrix.reindex(list(board.expectation.subjects))
    found = set(zip(board.subjects["metric"], board.subjects["method"], strict=True))
    order = [
        (metric.name, method)
        for metric in results.metrics
        for method in map(str, board.ranking["method"])
        if (metric.name, method) in found
    ]
    return order, matrix


def _sections(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    return [
        ("leaderboard", *_ranking(results)),
        ("paired differences by subject", *_differences(results)),
        ("means by subject", *_subjects(results)),
        ("published rows (other backbones and protocols; not ranked here)", *_published(results)),
    ]


def _ranking(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["method"]
    for metric in results.metrics:
        header += [arrowed(metric), "95%", "rank"]
    header += ["subjects", "images"]
    rows = []
    for row in results.leaderboard.ranking.to_dict("records"):
        cells = [str(row["method"])]
        for metric in results.metrics:
            cells += [number(row[metric.name]), _interval(row, metric), rank(row, metric)]
        subjects = f"{row['subjects']}/{row['subjects_planned']}"
        rows.append([*cells, subjects, str(row["images"])])
    return header, rows


def _differences(results: Results) -> tuple[list[str], list[list[str]]]:
    labels = {metric.name: metric.label for metric in results.metrics}
    header = ["a - b", "metric", "difference", "95%", "p", "p (Holm)", "subjects"]
    rows = [
        [
            f"{row['a']} - {row['b']}",
            labels[str(row["metric"])],
            number(row["difference"], signed=True),
            interval(row["low"], row["high"], signed=True),
            p_value(row["p"]),
            p_value(row["p_holm"]),
            str(row["subjects"]),
        ]
        for row in results.leaderboard.differences.to_dict("records")
    ]
    return header, rows


def _subjects(results: Results) -> tuple[list[str], list[list[str]]]:
    labels = {metric.name: metric.label for metric in results.metrics}
    order, matrix = subject_matrix(results)
    header = ["subject", *(f"{labels[metric]} {method}" for metric, method in order)]
    values = matrix[order] if order else matrix
    rows = [
        [str(subject), *(number(value) for value in line)]
        for subject, line in zip(values.index, values.to_numpy(), strict=True)
    ]
    return header, rows


def _published(results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["method", "backbone", *(metric.label for metric in results.metrics), "source"]
    rows = [
        [
            str(row["method"]),
            NOT_KNOWN if pd.isna(row["backbone"]) else str(row["backbone"]),
            *(number(row[metric.name]) for metric in results.metrics),
            f"{row['source']}{' (copied)' if row['copied'] == 'yes' else ''}",
        ]
        for row in results.published().to_dict("records")
    ]
    return header, rows


def _interval(row: Mapping[Any, Any], metric: Metric) -> str:
    return interval(row[f"{metric.name}_low"], row[f"{metric.name}_high"])


def _table(title: str, results: Results, first: str) -> Table:
    caption = escape(results.banner) if results.banner else None
    name = escape(results.suite.name)
    table = Table(title=f"{name}: {title}", caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def _cell(text: str) -> str:
    """Escape what Markdown or an HTML reader of it would take for markup."""
    for mark, replacement in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, replacement)
    return text


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)
