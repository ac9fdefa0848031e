"""Analysis -> tables for the terminal, Markdown, CSV, LaTeX and HTML; each carries its banners."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from dbbench.artifact import write_text
from dbbench.study.analysis import Analysis
from dbbench.study.shares import TIE_RULE

NOT_KNOWN = "-"
QUESTION_TITLES = {"subject": "subject fidelity", "prompt": "prompt fidelity"}


@dataclass(frozen=True)
class Table:
    """One table as text: the first column names, the others are numbers."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def study_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Return every table that has rows, the paper's second one first."""
    tables = (
        _table_2(analysis),
        _strengths(analysis),
        _agreement(analysis),
        _metrics(analysis),
        _checks(analysis),
        _times(analysis),
    )
    return tuple(table for table in tables if table.rows)


def print_tables(analysis: Analysis, console: Console) -> None:
    """Print all tables."""
    caption = escape("\n".join(analysis.banners)) or None
    for table in study_tables(analysis):
        shown = RichTable(
            title=escape(table.title),
            caption=caption,
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for number, column in enumerate(table.header):
            shown.add_column(
                column, justify="right" if number else "left", overflow="fold", no_wrap=number > 0
            )
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for note in analysis.notes:
        console.print(escape(note), style="yellow", highlight=False)


def write_tables(analysis: Analysis, folder: Path) -> Path:
    """Write NAME.csv for each table of numbers, results.md, results.tex and index.html."""
    banner = "; ".join(analysis.banners)
    for name, frame in numbers(analysis).items():
        marked = frame.assign(banner=banner)
        write_text(folder / f"{name}.csv", marked.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "results.md", markdown(analysis))
    write_text(folder / "results.tex", latex(analysis))
    write_text(folder / "index.html", page(analysis))
    return folder / "index.html"


def numbers(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the tables of numbers, unrounded, by the name of their file."""
    frames = {
        "majority": analysis.majority,
        "raw": analysis.raw,
        "agreement": analysis.agreement,
        "strengths": analysis.strengths,
        "metrics": analysis.metrics,
        "checks": analysis.checks,
        "times": analysis.times,
    }
    return {name: frame for name, frame in frames.items() if len(frame)}


def markdown(analysis: Analysis) -> str:
    """Return all tables as one Markdown text."""
    text = io.StringIO()
    text.write(f"# User study: {_title(analysis)}\n")
    for table in study_tables(analysis):
        text.write(f"\n## {table.title[0].upper()}{table.title[1:]}\n\n")
        text.writelines(f"**{_cell(banner)}**\n\n" for banner in analysis.banners)
        text.write(f"| {' | '.join(map(_cell, table.header))} |\n")
        text.write(f"|---|{'---:|' * (len(table.header) - 1)}\n")
        text.writelines(f"| {' | '.join(map(_cell, row))} |\n" for row in table.rows)
        if table.note:
            text.write(f"\n{_cell(table.note)}\n")
    text.writelines(f"\n{_cell(note)}.\n" for note in analysis.notes)
    return text.getvalue()


def latex(analysis: Analysis) -> str:
    """Return all tables for LaTeX with the package booktabs."""
    parts = []
    for table in study_tables(analysis):
        frame = pd.DataFrame(
            [[_tex(cell) for cell in row] for row in table.rows],
            columns=[_tex(name) for name in table.header],
        )
        caption = "; ".join([table.title, *analysis.banners])
        parts.append(
            frame.to_latex(
                index=False,
                column_format="l" + "r" * (len(table.header) - 1),
                caption=_tex(caption),
                label=f"tab:study-{analysis.question}-{table.name}",
            )
        )
    return "\n".join(parts)


def html_fragment(analysis: Analysis) -> str:
    """Return the tables as HTML without a page around them, for the report to include."""
    banners = "".join(f'<p class="tag">{html.escape(banner)}</p>\n' for banner in analysis.banners)
    text = io.StringIO()
    for table in study_tables(analysis):
        title = html.escape(f"{table.title[0].upper()}{table.title[1:]}")
        text.write(f"<h3>{title}</h3>\n{banners}")
        text.write(f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">\n')
        text.write('<table class="plain">\n<thead><tr>')
        for number, name in enumerate(table.header):
            kind = ' class="n"' if number else ""
            text.write(f'<th scope="col"{kind}>{html.escape(name)}</th>')
        text.write("</tr></thead>\n<tbody>\n")
        for row in table.rows:
            cells = "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row[1:])
            text.write(f'<tr><th scope="row">{html.escape(row[0])}</th>{cells}</tr>\n')
        text.write("</tbody>\n</table>\n</div>\n")
        if table.note:
            text.write(f'<p class="note">{html.escape(table.note)}</p>\n')
    text.writelines(f'<p class="note warn">{html.escape(n)}.</p>\n' for n in analysis.notes)
    return text.getvalue()


def page(analysis: Analysis) -> str:
    """Return the tables as a page that asks nothing of any network."""
    from dbbench.study.site import environment

    style = files("dbbench.study").joinpath("static", "study.css").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("results.html.j2")
        .render(
            title=f"User study: {_title(analysis)}",
            banners=analysis.banners,
            style=style,
            fragment=html_fragment(analysis),
        )
    )


def _title(analysis: Analysis) -> str:
    return QUESTION_TITLES.get(analysis.question, analysis.question)


def _table_2(analysis: Analysis) -> Table:
    rows: list[tuple[str, ...]] = []
    majority, raw = (f.to_dict("records") for f in (analysis.majority, analysis.raw))
    for voted, said in zip(majority, raw, strict=True):
        if len(majority) > 1:
            rows.append((f"{voted['first']} / {voted['second']}", "", "", "", ""))
        indent = "  " if len(majority) > 1 else ""
        for key in ("first", "second", "undecided"):
            name = voted.get(key, "undecided") if key != "undecided" else "undecided"
            cells = [
                text
                for row in (voted, said)
                for text in (
                    _percent(row[f"{key}_share"]),
                    _range(row[f"{key}_low"], row[f"{key}_high"], _percent),
                )
            ]
            rows.append((f"{indent}{name}", *cells))
        cells = [
            text
            for row in (voted, said)
            for text in (
                _points(row["difference"]),
                _range(row["difference_low"], row["difference_high"], _points),
            )
        ]
        rows.append((f"{indent}difference", *cells))
    pairs, answers = analysis.majority["pairs"].sum(), analysis.majority["answers"].sum()
    raters = len(analysis.checks)
    return Table(
        "table2",
        f"{_title(analysis)}: what people prefer",
        ("preferred", "majority", "95%", "all answers", "95%"),
        tuple(rows),
        f"{pairs} pairs, {answers} answers, {raters} raters. {TIE_RULE} Intervals allow for answers"
        " of one rater and on one pair resembling each other.",
    )


def _strengths(analysis: Analysis) -> Table:
    rows = tuple(
        (
            str(row["method"]),
            f"{row['strength']:+.2f}",
            _range(row["low"], row["high"], lambda v: f"{v:+.2f}"),
            _percent(row["wins"]),
        )
        for row in analysis.strengths.to_dict("records")
    )
    return Table(
        "strengths",
        f"{_title(analysis)}: Bradley-Terry strengths",
        ("method", "strength", "95%", "beats the average"),
        rows,
        "Log odds against the average method; an undecided answer is half a win for each.",
    )


def _agreement(analysis: Analysis) -> Table:
    rows = tuple(
        (
            "Krippendorff's alpha",
            _number(row["alpha"]),
            _range(row["low"], row["high"], _number),
            str(row["pairs"]),
        )
        for row in analysis.agreement.to_dict("records")
    )
    return Table(
        "agreement",
        f"{_title(analysis)}: agreement of raters",
        ("measure", "value", "95%", "pairs"),
        rows,
        "Nominal, of three answers; 1 is perfect agreement, 0 that of chance.",
    )


def _metrics(analysis: Analysis) -> Table:
    rows = tuple(
        (
            str(row["metric"]),
            *(
                text
                for key, form in (("pearson", _number), ("rank", _number), ("accuracy", _percent))
                for text in (form(row[key]), _range(row[f"{key}_low"], row[f"{key}_high"], form))
            ),
        )
        for row in analysis.metrics.to_dict("records")
    )
    return Table(
        "metrics",
        f"{_title(analysis)}: automatic metrics against people",
        ("metric", "Pearson", "95%", "rank", "95%", "right", "95%"),
        rows,
        "The difference of a metric between the two images against the difference of the raters'"
        " shares (Pearson and Spearman, each pair counted in both orders), and how often the metric"
        " prefers the image that the majority prefers (ties of the metric count half).",
    )


def _checks(analysis: Analysis) -> Table:
    checks = analysis.checks
    given, failed = int(checks["checks"].sum()), int(checks["failed"].sum())
    if not given:
        return Table("checks", "", (), ())
    asked = checks.loc[checks["checks"] > 0]
    people = int((asked["failed"] > 0).sum())
    rows = (
        ("attention checks", str(given), str(failed), _percent(failed / given)),
        ("raters", str(len(asked)), str(people), _percent(people / len(asked))),
    )
    title = f"{_title(analysis)}: attention checks"
    return Table("checks", title, ("what", "asked", "failed", "share"), rows)


def _times(analysis: Analysis) -> Table:
    rows = []
    for row in analysis.times.to_dict("records"):
        if row["answers"]:
            names = ("p05", "quartile", "median", "three_quarters", "p95")
            cells = [f"{row[name]:.1f} s" for name in names]
            rows.append((f"{row['answers']} answers", *cells))
    header = ("time for a question", "5%", "25%", "median", "75%", "95%")
    return Table("times", f"{_title(analysis)}: time", header, tuple(rows))


def _percent(value: Any) -> str:
    return NOT_KNOWN if _missing(value) else f"{100 * value:.1f}%"


def _points(value: Any) -> str:
    return NOT_KNOWN if _missing(value) else f"{100 * value:+.1f}"


def _number(value: Any) -> str:
    return NOT_KNOWN if _missing(value) else f"{value:.2f}"


def _range(low: Any, high: Any, form: Any) -> str:
    if _missing(low) or _missing(high):
        return NOT_KNOWN
    return f"{form(low)} to {form(high)}".replace("%", "")


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))


def _cell(text: str) -> str:
    """Escape what Markdown or an HTML reader of it would take for markup."""
    marks: Mapping[str, str] = {"&": "&amp;", "<": "&lt;", "|": "\\|", "\n": " "}
    return "".join(marks.get(letter, letter) for letter in text)


def _tex(text: str) -> str:
    marks = {letter: f"\\{letter}" for letter in "&%$#_{}"}
    marks |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    return "".join(marks.get(letter, letter) for letter in text)
