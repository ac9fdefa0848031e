"""`dbbench list`: tables of the available names; no plug-in is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dbbench.errors import unknown
from dbbench.terminal import plain_console

if TYPE_CHECKING:
    from dbbench.plugins import PluginKind

Table = tuple[Sequence[str], Sequence[Sequence[str | Text]]]
"""A header and rows."""

app = typer.Typer()


def _subjects() -> Table:
    from dbbench.data.photographs import Photographs

    rows = [(s.name, s.class_noun, s.kind, str(len(s.photos))) for s in Photographs().subjects]
    return ("subject", "class noun", "kind", "images"), rows


def _prompts() -> Table:
    from dbbench.data.photographs import Photographs

    dataset = Photographs()
    rows: dict[str, list[str]] = {}
    for subject in sorted(dataset.subjects, key=lambda subject: subject.live):
        for prompt in dataset.prompts(subject):
            row = rows.setdefault(
                prompt.id, [prompt.id, prompt.category, subject.kind, prompt.text]
            )
            if subject.kind not in row[2]:
                row[2] += f", {subject.kind}"
    return ("id", "category", "for", "text"), list(rows.values())


def _suites() -> Table:
    """List the suites of dbbench, then the experiments that extend them."""
    from dbbench.data.dataset import load_dataset, select_subjects
    from dbbench.suites.inheritance import bases, read_suite, suite_names
    from dbbench.suites.suite import load_suite

    rows = []
    for name in suite_names():
        below, suite = bases(read_suite(name)), load_suite(name)
        backbone = f"of {' or '.join(below)}" if below else suite.backbone.path
        pixels = "" if below else str(suite.backbone.resolution)
        subjects = len(select_subjects(load_dataset(suite.source), suite.subjects))
        rows.append((bool(below), name, backbone, pixels, str(subjects), suite.description))
    header = ("suite", "backbone", "px", "subjects", "description")
    return header, [row for _, *row in sorted(rows)]


def _protocols() -> Table:
    from dbbench.protocols.protocol import load_protocol, protocol_names

    rows = []
    for protocol in map(load_protocol, protocol_names()):
        choices = f"references {protocol.references}, text {protocol.text}"
        about = f"{protocol.description}\n{choices}, mean over {protocol.aggregation}s\n"
        rows.append((protocol.name, Text.assemble(about, (f"{protocol.source}\n", "dim"))))
    return ("protocol", "description, settings and source"), rows


def _plugins(kind: PluginKind) -> Table:
    """List the plug-ins of a kind, each with the first line of its module's docstring."""
    from dbbench.plugins import describe, names, provenance

    rows = [
        (name, Text.assemble(describe(kind, name), "\n", (provenance(kind, name), "dim")))
        for name in names(kind)
    ]
    return (kind[:-1], "description and source"), rows


LISTS: dict[str, Callable[[], Table]] = {
    "datasets": partial(_plugins, "datasets"),
    "subjects": _subjects,
    "prompts": _prompts,
    "suites": _suites,
    "methods": partial(_plugins, "methods"),
    "metrics": partial(_plugins, "metrics"),
    "encoders": partial(_plugins, "encoders"),
    "protocols": _protocols,
}


@app.command("list", epilog="Example:  dbbench list subjects")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help=f"{', '.join(LISTS)}.", autocompletion=lambda: list(LISTS)
        ),
    ],
) -> None:
    """List the available names of one kind."""
    from dbbench.reports.formats.terminal import print_table

    if what not in LISTS:
        raise unknown("list", what, LISTS, "")
    header, rows = LISTS[what]()
    print_table(plain_console(), "", header, rows, left=range(len(header)))
