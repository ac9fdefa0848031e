"""Results -> tables on the terminal, in Markdown, CSV, Parquet and LaTeX, each with its banner."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from dbbench.artifact import write_text
from dbbench.metric import Metric

from .latex import latex_document, latex_table
from .paper import judge, paper_rows
from .results import BOARD, RANKED, Results, columns_of

NOT_KNOWN = "-"
HOW = (
    "Mean over subjects of the mean over images, with the 95% interval (bootstrap over subjects). "
    "Methods share a rank unless a paired test over subjects tells them apart (p < 0.05, Holm)."
)


@dataclass(frozen=True)
class Table:
    """One table: as people read it, and its numbers unrounded."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    data: pd.DataFrame
    texts: int = 1
    """How many of the first columns are words."""


def write_tables(results: Results, folder: Path) -> None:
    """Write leaderboard.* beside the scores, and every table in four forms into `folder`."""
    board = results.leaderboard
    for name, table in zip(BOARD, (board.ranking, board.subjects, board.differences), strict=True):
        _write_parquet(table, results.out / f"{name}.parquet")
        write_text(results.out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(results.out / RANKED, json.dumps({"key": results.key}) + "\n")
    write_text(results.out / "leaderboard.md", markdown(results))
    folder.mkdir(parents=True, exist_ok=True)
    made = [table for table in all_tables(results) if table.rows]
    for each in made:
        _write(each, results, folder)
    write_text(folder / "all.tex", latex_document(table.name for table in made))


def _write(table: Table, results: Results, folder: Path) -> None:
    data = table.data.assign(banner=results.banner) if results.banner else table.data
    _write_parquet(data, folder / f"{table.name}.parquet")
    write_text(folder / f"{table.name}.csv", data.to_csv(index=False, lineterminator="\n"))
    text = io.StringIO()
    _write_markdown(text, table, results.banner)
    write_text(folder / f"{table.name}.md", text.getvalue())
    caption = ". ".join(filter(None, [f"{results.suite.name}: {table.title}", results.banner]))
    tex = latex_table(table.name, caption, table.header, table.rows, table.texts)
    write_text(folder / f"{table.name}.tex", tex)


def all_tables(results: Results) -> list[Table]:
    """Return every table of a run; those that a run has nothing for are without rows."""
    return [
        _paper_table(results),
        _verdicts(results),
        _ranking(results),
        _differences(results),
        _means(results, "subject"),
        _means(results, "prompt"),
        _published(results),
    ]


def print_tables(results: Results, console: Console) -> None:
    """Print ranking and paired differences, metric by metric, and what is missing."""
    board = results.leaderboard
    ranking = _printed("leaderboard", results, "method")
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
    differences = _printed("paired differences by subject", results, "a - b")
    for column in ("difference", "95%", "p (Holm)"):
        differences.add_column(column, justify="right", no_wrap=True)
    above = ""
    for pair, label, difference, between, _, p_holm, _ in _differences(results).rows:
        if label != above:
            differences.add_row(Text(label, style="bold"))
        differences.add_row(escape(f"  {pair}"), difference, between, p_holm)
        above = label
    if differences.row_count:
        console.print(differences)
    for verdict in judge(results):
        style = {"reproduced": "green", "not reproduced": "red"}.get(verdict.outcome, "yellow")
        console.print(escape(verdict.sentence), style=style, highlight=False)
    for reason in board.reasons:
        console.print(escape(reason), style="yellow", highlight=False)


def markdown(results: Results) -> str:
    """Return all tables as one Markdown text."""
    text = io.StringIO()
    text.write(f"# dbbench: {cell(results.suite.name)}\n")
    for table in all_tables(results):
        if table.rows:
            text.write("\n")
            _write_markdown(text, table, results.banner)
    text.write(f"\n{HOW}\n")
    text.writelines(f"\n{cell(reason)}.\n" for reason in results.leaderboard.reasons)
    return text.getvalue()


def _write_markdown(text: io.StringIO, table: Table, banner: str | None) -> None:
    text.write(f"## {cell(table.title[0].upper() + table.title[1:])}\n\n")
    if banner:
        text.write(f"**{cell(banner)}**\n\n")
    text.write(f"| {' | '.join(map(cell, table.header))} |\n")
    right = len(table.header) - table.texts
    text.write(f"|{'---|' * table.texts}{'---:|' * right}\n")
    text.writelines(f"| {' | '.join(map(cell, row))} |\n" for row in table.rows)


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


def _paper_table(results: Results) -> Table:
    """The paper's own table with what was found: found, its interval, and published."""
    paper = results.suite.table
    header, rows, data = ["row"], [], []
    for metric in results.metrics:
        header += [arrowed(metric), "95%", "published"]
    for row in paper_rows(results):
        cells = [row.label]
        for cell in row.cells:
            cells += [number(cell.found), interval(cell.low, cell.high), number(cell.published)]
            values = {"found": cell.found, "low": cell.low, "high": cell.high}
            values["published"] = cell.published
            data.append({"method": row.method, "metric": cell.metric.name, **values})
        rows.append(cells)
    title = f"{paper.title} ({paper.source})" if paper else ""
    return Table("paper", title, header, rows, pd.DataFrame(data))


def _verdicts(results: Results) -> Table:
    rows, data = [], []
    for verdict in judge(results):
        found = verdict.difference
        low = high = mean = None
        if found is not None and found.subjects:
            mean, low, high = found.mean, found.interval.low, found.interval.high
        count = 0 if found is None else found.subjects
        numbers = [number(mean, signed=True), interval(low, high, signed=True), str(count)]
        rows.append([verdict.claim.text, verdict.outcome, *numbers])
        line = {"finding": verdict.claim.text, "verdict": verdict.outcome, "difference": mean}
        data.append(line | {"low": low, "high": high, "subjects": count})
    header = ["finding", "verdict", "difference", "95%", "subjects"]
    return Table("verdicts", "findings of the paper", header, rows, pd.DataFrame(data), texts=2)


def _ranking(results: Results) -> Table:
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
    return Table("leaderboard", "leaderboard", header, rows, results.leaderboard.ranking)


def _differences(results: Results) -> Table:
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
    title = "paired differences by subject"
    return Table("differences", title, header, rows, results.leaderboard.differences, texts=2)


def _means(results: Results, column: Literal["subject", "prompt"]) -> Table:
    labels = {metric.name: metric.label for metric in results.metrics}
    table = results.means_by(column)
    columns = columns_of(table)
    header = [column, *(f"{labels[metric]} {method}" for metric, method in columns)]
    rows = [
        [str(name), *(number(value) for value in line)]
        for name, line in zip(table.index, table.to_numpy(), strict=True)
    ]
    data = table.set_axis([f"{metric} {method}" for metric, method in columns], axis=1)
    return Table(f"{column}s", f"means by {column}", header, rows, data.reset_index())


def _published(results: Results) -> Table:
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
    title = "published rows (other backbones and protocols; not ranked here)"
    return Table("published", title, header, rows, results.published(), texts=2)


def _interval(row: Mapping[Any, Any], metric: Metric) -> str:
    return interval(row[f"{metric.name}_low"], row[f"{metric.name}_high"])


def _printed(title: str, results: Results, first: str) -> rich.table.Table:
    caption = escape(results.banner) if results.banner else None
    name = escape(results.suite.name)
    title = f"{name}: {title}"
    table = rich.table.Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def cell(text: str) -> str:
    """Escape what Markdown or an HTML reader of it would take for markup."""
    for mark, replacement in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, replacement)
    return text


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    table.to_parquet(temporary, index=False)
    os.replace(temporary, path)
