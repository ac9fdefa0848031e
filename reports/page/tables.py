"""Results -> tables on the terminal, in Markdown, CSV, Parquet and LaTeX, each with its banner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from dbbench.evaluation.metric import Metric
from dbbench.files import hash_file, write_text
from dbbench.reports.formats.latex import latex_document
from dbbench.reports.formats.table import (
    NOT_KNOWN,
    Table,
    arrowed,
    cell,
    interval,
    markdown_table,
    number,
    p_value,
    rank,
    write_parquet,
    write_table,
)
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.page.flags import say_one_colour
from dbbench.reports.page.verdicts import judge, paper_rows
from dbbench.reports.results import BOARD, RANKED, Results, columns_of

HOW = (
    "Mean over subjects of the mean over images, with the 95% interval (bootstrap over subjects). "
    "Methods share a rank unless a paired test over subjects distinguishes them (p < 0.05 by Holm "
    "over the family: all pairs of methods on that metric)."
)


def write_tables(results: Results, folder: Path, more: Sequence[Table] = ()) -> None:
    """Write leaderboard.* beside the scores, and every table in four forms into `folder`.

    `more` are tables of a user study, which carry their own banners.
    """
    board = results.leaderboard
    for name, table in zip(BOARD, (board.ranking, board.subjects, board.differences), strict=True):
        write_parquet(table, results.out / f"{name}.parquet")
        write_text(results.out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    hashes = [hash_file(results.out / f"{name}.parquet") for name in BOARD]
    write_text(results.out / RANKED, json.dumps({"key": results.key, "files": hashes}) + "\n")
    write_text(results.out / "leaderboard.md", markdown(results))
    banners = [results.banner] if results.banner else []
    made = [table for table in all_tables(results) if table.rows]
    for each in made:
        write_table(each, folder, origin=results.suite.name, banners=banners)
    write_text(folder / "all.tex", latex_document(t.name for t in (*made, *more)))


def all_tables(results: Results) -> list[Table]:
    """Return every table of a run; tables without results have no rows."""
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
    banners = [results.banner] if results.banner else []
    ranking: list[list[str]] = []
    for metric in results.metrics:
        ranking.append([arrowed(metric)])
        for row in board.ranking.to_dict("records"):
            if pd.isna(row[metric.name]) and not row["note"]:
                continue
            cells = [number(row[metric.name]), _interval(row, metric), rank(row, metric)]
            counts = [f"{row['subjects']}/{row['subjects_planned']}", str(row["images"])]
            ranking.append([f"  {row['method']}", *cells, *counts])
    title = f"{results.suite.name}: leaderboard"
    header = ("method", "mean", "95%", "rank", "subjects", "images")
    print_table(console, title, header, ranking, banners=banners)
    differences: list[list[str]] = []
    above = ""
    for pair, label, difference, between, _, p_holm, family, _ in _differences(results).rows:
        if label != above:
            differences.append([label])
        differences.append([f"  {pair}", difference, between, p_holm, family])
        above = label
    if differences:
        title = f"{results.suite.name}: paired differences by subject"
        columns = ("a - b", "difference", "95%", "p (Holm)", "family")
        print_table(console, title, columns, differences, banners=banners)
    print_verdicts(results, console)
    for reason in (*say_one_colour(results), *board.reasons):
        console.print(reason, style="yellow", highlight=False, markup=False)


def print_verdicts(results: Results, console: Console) -> None:
    """Print one sentence for each finding that the suite's table states."""
    for verdict in judge(results):
        style = {"reproduced": "green", "not reproduced": "red"}.get(verdict.outcome, "yellow")
        console.print(verdict.sentence, style=style, highlight=False, markup=False)


def markdown(results: Results) -> str:
    """Return all tables as one Markdown text."""
    banners = [results.banner] if results.banner else []
    made = [markdown_table(table, banners) for table in all_tables(results) if table.rows]
    lines = [*say_one_colour(results), *results.leaderboard.reasons]
    reasons = [f"{cell(line)}.\n" for line in lines]
    return "\n".join([f"# dbbench: {cell(results.suite.name)}\n", *made, f"{HOW}\n", *reasons])


def _paper_table(results: Results) -> Table:
    """Return the paper's table: measured value, its interval, and published value."""
    paper = results.suite.table
    header, rows, data = ["row"], [], []
    for metric in results.metrics:
        header += [arrowed(metric), "95%", "published"]
    for row in paper_rows(results):
        cells = [row.label]
        for each in row.cells:
            cells += [number(each.found), interval(each.low, each.high), number(each.published)]
            values = {"found": each.found, "low": each.low, "high": each.high}
            values["published"] = each.published
            data.append({"method": row.method, "metric": each.metric.name, **values})
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
    header = ["a - b", "metric", "difference", "95%", "p", "p (Holm)", "family", "subjects"]
    rows = [
        [
            f"{row['a']} - {row['b']}",
            labels[str(row["metric"])],
            number(row["difference"], signed=True),
            interval(row["low"], row["high"], signed=True),
            p_value(row["p"]),
            p_value(row["p_holm"]),
            str(row["comparisons"]),
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
