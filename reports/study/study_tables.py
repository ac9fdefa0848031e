"""Analysis -> the tables of a user study; the first one is the paper's Table 2."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dbbench.reports.formats.table import NOT_KNOWN, Table
from dbbench.study.analysis.shares import TIE_RULE
from dbbench.study.analysis.summary import Analysis

QUESTION_TITLES = {"subject": "subject fidelity", "prompt": "prompt fidelity"}


def study_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Return every table that has rows, the preferences first."""
    tables = (
        _shares(analysis),
        _strengths(analysis),
        _agreement(analysis),
        _metrics(analysis),
        _checks(analysis),
        _times(analysis),
    )
    return tuple(table for table in tables if table.rows)


def study_title(analysis: Analysis) -> str:
    """Return the title of a study's question, such as "subject fidelity"."""
    return QUESTION_TITLES.get(analysis.question, analysis.question)


def _shares(analysis: Analysis) -> Table:
    rows: list[tuple[str, ...]] = []
    majority, raw = (f.to_dict("records") for f in (analysis.majority, analysis.raw))
    for by_majority, of_all in zip(majority, raw, strict=True):
        if len(majority) > 1:
            rows.append((f"{by_majority['first']} / {by_majority['second']}", "", "", "", ""))
        indent = "  " if len(majority) > 1 else ""
        for key in ("first", "second", "undecided"):
            name = by_majority.get(key, "undecided") if key != "undecided" else "undecided"
            cells = [
                text
                for row in (by_majority, of_all)
                for text in (
                    _percent(row[f"{key}_share"]),
                    _range(row[f"{key}_low"], row[f"{key}_high"], _percent),
                )
            ]
            rows.append((f"{indent}{name}", *cells))
        cells = [
            text
            for row in (by_majority, of_all)
            for text in (
                _points(row["difference"]),
                _range(row["difference_low"], row["difference_high"], _points),
            )
        ]
        rows.append((f"{indent}difference", *cells))
    pairs, answers = analysis.majority["pairs"].sum(), analysis.majority["answers"].sum()
    raters = len(analysis.checks)
    both = [analysis.majority.assign(of="pairs"), analysis.raw.assign(of="answers")]
    return Table(
        _name(analysis, "shares"),
        f"{study_title(analysis)}: what people prefer",
        ("preferred", "majority", "95%", "all answers", "95%"),
        rows,
        pd.concat(both, ignore_index=True),
        note=f"{pairs} pairs, {answers} answers, {raters} raters. {TIE_RULE} The intervals"
        " take into account that answers of one rater, or on one pair, are dependent.",
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
        _name(analysis, "strengths"),
        f"{study_title(analysis)}: Bradley-Terry strengths",
        ("method", "strength", "95%", "beats the average"),
        rows,
        analysis.strengths,
        note="Log odds against the average method; an undecided answer is half a win for each.",
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
        _name(analysis, "agreement"),
        f"{study_title(analysis)}: agreement of raters",
        ("measure", "value", "95%", "pairs"),
        rows,
        analysis.agreement,
        note="Nominal scale with three answers; 1 is perfect agreement, 0 is agreement by chance.",
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
        _name(analysis, "metrics"),
        f"{study_title(analysis)}: automatic metrics against people",
        ("metric", "Pearson", "95%", "rank", "95%", "right", "95%"),
        rows,
        analysis.metrics,
        note="Pearson and rank (Spearman): correlation of the metric's difference between the two"
        " images with the difference of the raters' shares, each pair in both orders. Right: how"
        " often the metric prefers the majority's image (ties of the metric count half).",
    )


def _checks(analysis: Analysis) -> Table:
    checks = analysis.checks
    given, failed = int(checks["checks"].sum()), int(checks["failed"].sum())
    if not given:
        return Table("", "", (), (), checks)
    asked = checks.loc[checks["checks"] > 0]
    people = int((asked["failed"] > 0).sum())
    rows = (
        ("attention checks", str(given), str(failed), _percent(failed / given)),
        ("raters", str(len(asked)), str(people), _percent(people / len(asked))),
    )
    title = f"{study_title(analysis)}: attention checks"
    header = ("what", "asked", "failed", "share")
    return Table(_name(analysis, "checks"), title, header, rows, checks)


def _times(analysis: Analysis) -> Table:
    rows = []
    for row in analysis.times.to_dict("records"):
        if row["answers"]:
            names = ("p05", "quartile", "median", "three_quarters", "p95")
            cells = [f"{row[name]:.1f} s" for name in names]
            rows.append((f"{row['answers']} answers", *cells))
    header = ("time for a question", "5%", "25%", "median", "75%", "95%")
    title = f"{study_title(analysis)}: time"
    return Table(_name(analysis, "times"), title, header, rows, analysis.times)


def _name(analysis: Analysis, table: str) -> str:
    return f"study-{analysis.question}-{table}"


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
