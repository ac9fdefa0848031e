"""Reconciliation -> terminal, Markdown, CSV, Parquet: the same images under each protocol."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from dbbench.evaluation.flags import ONE_COLOUR
from dbbench.evaluation.metric import Metric
from dbbench.evaluation.scores import REAL
from dbbench.files import write_text
from dbbench.protocols.protocol import Protocol
from dbbench.protocols.scorecard import Account
from dbbench.protocols.scoring import Reconciliation
from dbbench.reports.formats.table import arrowed, p_value
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.scoring.remarks import count, encoder_lines, number, remarks, span, spread
from dbbench.versions import versions

SHOWN = 12
"""Maximum number of lines of a list in the terminal; the files have all of them."""
_WORDS = {"refs", "text", "per", "of", "nearest"}
_TEXTS = {"without-identifier": "no id", "as-given": "given", "without-subject": "no subj."}

Section = tuple[str, list[str], list[list[str]]]
"""Title, header and rows of a table; an empty first cell after a title row belongs to it."""


def print_reconciliation(result: Reconciliation, account: Account, console: Console) -> None:
    """Print the tables and what is missing, in 80 columns."""
    console.print(_headline(result), soft_wrap=True, highlight=False)
    console.print(f"references: {account.references}", soft_wrap=True, highlight=False)
    for line in encoder_lines(result):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for title, header, rows in _sections(result):
        if rows:
            texts = {0} | {n for n, name in enumerate(header) if name in _WORDS}
            shown = SHOWN if header[0] == "flag" else 4 * SHOWN
            banners = [account.banner] if account.banner else []
            name = f"{account.name}: {title}"
            print_table(console, name, header, rows[:shown], banners=banners, left=texts)
            if len(rows) > shown:
                console.print(f"  and {len(rows) - shown} more rows in the files")
    for line in remarks(result):
        console.print(line, highlight=False, markup=False)
    for lines in (result.warnings, result.notes, account.refused):
        for line in lines[:SHOWN]:
            console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"and {len(lines) - SHOWN} more such lines in score.md", style="yellow")


def write_reconciliation(result: Reconciliation, account: Account, out: Path) -> None:
    """Write scores, summary, differences, flags and coverage, score.md and score.json."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "scores": result.scores,
        "summary": result.summary,
        "differences": result.differences,
        "flags": result.flags,
        "coverage": result.coverage,
    }
    for name, table in tables.items():
        table = table.assign(banner=account.banner or "")
        table.to_parquet(out / f"{name}.parquet", index=False)
        write_text(out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(out / "score.md", markdown(result, account))
    record = {
        "name": account.name,
        "banner": account.banner,
        "references": account.references,
        "protocols": [protocol.model_dump(mode="json") for protocol in result.cast.protocols],
        "encoders": {
            f"{protocol} {role}": encoder
            for (protocol, role), encoder in result.cast.encoders.items()
        },
        "warnings": list(result.warnings),
        "not_scored": list(result.notes),
        "refused": list(account.refused),
        "versions": versions(),
    }
    write_text(out / "score.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def markdown(result: Reconciliation, account: Account) -> str:
    """Return everything as one Markdown text; nothing is cut short."""
    text = io.StringIO()
    text.write(f"# dbbench score: {_cell(account.name)}\n\n{_cell(_headline(result))}\n\n")
    text.write(f"References: {_cell(account.references)}\n\n")
    text.writelines(f"- {_cell(line)}\n" for line in encoder_lines(result))
    for title, header, rows in [*_sections(result), _coverage(result), _choices(result)]:
        if not rows:
            continue
        text.write(f"\n## {title[0].upper()}{title[1:]}\n\n")
        if account.banner:
            text.write(f"**{_cell(account.banner)}**\n\n")
        text.write(f"| {' | '.join(map(_cell, header))} |\n")
        text.write(f"|---|{'---:|' * (len(header) - 1)}\n")
        for row in rows:
            cells = [f"**{_cell(row[0])}**"] if len(row) == 1 else list(map(_cell, row))
            cells += [""] * (len(header) - len(cells))
            text.write(f"| {' | '.join(cells)} |\n")
    text.write("\n")
    lines = [*remarks(result), *result.warnings, *result.notes, *account.refused]
    text.writelines(f"- {_cell(line)}\n" for line in lines)
    return text.getvalue()


def _headline(result: Reconciliation) -> str:
    coverage = result.coverage
    methods = coverage["method"].nunique()
    return (
        f"{coverage['images'].sum()} images of {count(coverage['subject'].nunique())} by "
        f"{methods} method{'s' if methods > 1 else ''}"
    )


def _sections(result: Reconciliation) -> list[Section]:
    sections = [_scores(result, protocol) for protocol in result.cast.protocols[:1]]
    if len(result.cast.protocols) > 1:
        sections.append(_side_by_side(result))
    sections.append(_differences(result))
    sections.append(_flags(result))
    return sections


def _scores(result: Reconciliation, protocol: Protocol) -> Section:
    """The first protocol's table, with intervals and the published real images."""
    header = ["method", "mean", "95%", "subjects", "images", "published"]
    rows: list[list[str]] = []
    summary = result.summary[result.summary["protocol"] == protocol.name]
    for metric in result.cast.measures(protocol):
        own = summary[summary["metric"] == metric.name]
        if own.empty:
            continue
        rows.append([arrowed(metric)])
        oracle = (own["method"] != REAL).to_numpy()
        for row in own.iloc[oracle.argsort(kind="stable")].to_dict("records"):
            published = _published(result, protocol, metric) if row["method"] == REAL else None
            rows.append(
                [
                    f"  {row['method']}",
                    number(row["value"], protocol, metric.name),
                    span(row["low"], row["high"], protocol, metric.name),
                    str(row["subjects"]),
                    str(row["images"]),
                    number(published, protocol, metric.name) if published else "",
                ]
            )
    return f"scores by protocol {protocol.name}", header, rows


def _published(result: Reconciliation, protocol: Protocol, metric: Metric) -> float | None:
    """Return the published real-images row, where the encoder is the protocol's own."""
    if protocol.real is None or (protocol.name, metric.role) not in result.cast.own:
        return None
    return protocol.real.scores.get(metric.name)


def _side_by_side(result: Reconciliation) -> Section:
    metrics: dict[str, Metric] = {}
    for protocol in result.cast.protocols:
        metrics |= {m.name: m for m in result.cast.measures(protocol) if _scored(result, m)}
    header = ["protocol", "refs", "text", "per", *(arrowed(m) for m in metrics.values())]
    values = {
        (row["protocol"], row["method"], row["metric"]): row["value"]
        for row in result.summary.to_dict("records")
    }
    rows: list[list[str]] = []
    for method in [*(m for m in result.summary["method"].unique() if m != REAL), REAL]:
        rows.append([str(method)])
        for protocol in result.cast.protocols:
            cells = [
                number(values.get((protocol.name, method, name)), protocol, name)
                if any(m.name == name for m in result.cast.metrics[protocol.name])
                else ""
                for name in metrics
            ]
            text = "" if method == REAL else _TEXTS[protocol.text]
            choices = [protocol.references, text, protocol.aggregation]
            rows.append([protocol.name, *choices, *cells])
    return "the same images under each protocol", header, rows


def _scored(result: Reconciliation, metric: Metric) -> bool:
    return bool((result.summary["metric"] == metric.name).any())


def _differences(result: Reconciliation) -> Section:
    header = ["a - b, paired by subject", "difference", "95%", "p (Holm)", "family", "subjects"]
    rows: list[list[str]] = []
    protocol = result.cast.protocols[0]
    own = result.differences[result.differences["protocol"] == protocol.name]
    for metric in result.cast.measures(protocol):
        records = own[own["metric"] == metric.name].to_dict("records")
        if records:
            rows.append([metric.label])
        for row in records:
            rows.append(
                [
                    f"  {row['a']} - {row['b']}",
                    number(row["difference"], protocol, metric.name, signed=True),
                    span(row["low"], row["high"], protocol, metric.name, signed=True),
                    p_value(row["p_holm"]),
                    str(row["comparisons"]),
                    str(row["subjects"]),
                ]
            )
    return f"differences by protocol {protocol.name}", header, rows


def _flags(result: Reconciliation) -> Section:
    header = ["flag", "of", "value", "ceiling", "nearest"]
    rows = []
    above = result.flags[result.flags["flag"] != ONE_COLOUR]  # Those stand in words below.
    ordered = above.sort_values("value", ascending=False)
    for row in ordered.to_dict("records"):
        whole_prompt = pd.isna(row["image"])
        of = f"{row['subject']}/{row['prompt']} ({row['method']})" if whole_prompt else row["image"]
        numbers = [f"{row['value']:.3f}", f"{row['ceiling']:.3f}"]
        rows.append([row["flag"], of, *numbers, "" if whole_prompt else row["nearest"]])
    return "flagged: closer than two of the subject's own photographs ever are", header, rows


def _coverage(result: Reconciliation) -> Section:
    header = ["method", "subject", "images", "prompts", "images each", "missing prompts"]
    rows = [
        [
            str(row["method"]),
            str(row["subject"]),
            str(row["images"]),
            f"{row['prompts']}/{row['prompts_planned']}",
            spread(row["fewest_per_prompt"], row["most_per_prompt"]),
            str(row["missing_prompts"]),
        ]
        for row in result.coverage.to_dict("records")
    ]
    return "coverage", header, rows


def _choices(result: Reconciliation) -> Section:
    header = ["protocol", "choice", "value", "who made it"]
    rows = []
    for protocol in result.cast.protocols:
        values = protocol.model_dump(mode="json")
        values["encoders"] = ", ".join(f"{k} {v}" for k, v in protocol.encoders.items())
        values["scale"] = ", ".join(f"{k} x{v:g}" for k, v in protocol.scale.items()) or "1"
        for choice, reason in protocol.reasons.items():
            rows.append([protocol.name, choice, str(values[choice]), reason])
    return "the protocols' choices", header, rows


def _cell(text: Sequence[str] | str) -> str:
    """Escape what Markdown or an HTML reader of it would take for markup."""
    for mark, replacement in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = str(text).replace(mark, replacement)
    return str(text)
