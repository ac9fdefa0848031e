"""What a check says: a table on the terminal, a JUnit file for CI, a summary in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from dbbench.gate import Line
from dbbench.reports.formats.table import cell, number, p_value
from dbbench.reports.formats.terminal import print_table

HEADER = ("method", "metric", "baseline", "now", "difference", "trainings", "p (Holm)", "verdict")
HOW = (
    "Paired by subject and seed; one-sided sign-flip test towards worse, Holm over all lines. "
    "REGRESSED is p < 0.05 and more than the tolerance."
)


def print_lines(lines: Sequence[Line], console: Console, *, title: str, banner: str | None) -> None:
    """Print one line for each method and metric; 80 columns are enough."""
    rows = []
    for line in lines:
        method, metric, *numbers, _, p, verdict = _cells(line)
        style = "bold red" if line.regressed else ""
        cells = (f"{method}, {metric}", *numbers, p, verdict)
        rows.append([Text(cell, style=style) for cell in cells])
    header = ("method, metric", "baseline", "now", "change", "p (Holm)", "verdict")
    banners = [banner] if banner else []
    print_table(console, title, header, rows, banners=banners, left=(0, 5))
    counts = sorted({line.trainings for line in lines})
    trainings = " or ".join(map(str, counts))
    console.print(f"{trainings} trainings of each (subjects x seeds). {HOW}", style="dim")


def junit(lines: Sequence[Line], *, suite: str, banner: str | None) -> str:
    """Return JUnit XML: one test case for each method and metric."""
    failed = [line for line in lines if line.regressed]
    root = ElementTree.Element("testsuites")
    counts = {"tests": str(len(lines)), "failures": str(len(failed)), "errors": "0"}
    cases = ElementTree.SubElement(root, "testsuite", {"name": f"dbbench check {suite}", **counts})
    if banner:
        properties = ElementTree.SubElement(cases, "properties")
        ElementTree.SubElement(properties, "property", name="banner", value=banner)
    for line in lines:
        name = {"classname": f"{suite}.{line.method}", "name": line.metric.name, "time": "0"}
        case = ElementTree.SubElement(cases, "testcase", name)
        text = ", ".join(f"{key} {value}" for key, value in zip(HEADER, _cells(line), strict=True))
        if line.regressed:
            ElementTree.SubElement(case, "failure", message=text, type="regression").text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def summary(lines: Sequence[Line], *, title: str, banner: str | None) -> str:
    """Return the table in Markdown, the verdict first."""
    failed = sum(line.regressed for line in lines)
    verdict = f"{failed} of {len(lines)} regressed" if failed else "no regression"
    text = f"## {cell(title)}: {verdict}\n\n"
    if banner:
        text += f"**{cell(banner)}**\n\n"
    text += f"| {' | '.join(HEADER)} |\n|---|---|{'---:|' * 5}---|\n"
    for line in lines:
        cells = [cell(value) for value in _cells(line)]
        text += f"| {' | '.join(f'**{c}**' if line.regressed else c for c in cells)} |\n"
    return text + f"\n{HOW}\n"


def _cells(line: Line) -> list[str]:
    return [
        line.method,
        line.metric.label,
        number(line.baseline),
        number(line.new),
        number(line.new - line.baseline, signed=True),
        str(line.trainings),
        p_value(line.p_holm),
        line.verdict,
    ]
