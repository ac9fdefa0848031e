"""`dbbench list`: tables of what there is to choose from; no plugin is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dbbench.errors import unknown

if TYPE_CHECKING:
    from dbbench.plugins import Kind

LISTS = (
    *("datasets", "subjects", "prompts", "suites"),
    *("methods", "metrics", "encoders", "protocols"),
)

app = typer.Typer()


@app.command("list", epilog="Example:  dbbench list subjects")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help=f"{', '.join(LISTS)}.", autocompletion=lambda: list(LISTS)
        ),
    ],
) -> None:
    """Show what there is to choose from."""
    console = Console()
    match what:
        case "subjects":
            console.print(_subjects())
        case "prompts":
            console.print(_prompts(), markup=False)
        case "suites":
            console.print(_suites())
        case "datasets" | "methods" | "metrics" | "encoders":
            console.print(_plugins(what))
        case "protocols":
            console.print(_protocols())
        case _:
            raise unknown("list", what, LISTS, "")


def _subjects() -> Table:
    from dbbench.data.photographs import Photographs

    table = _table("subject", "class noun", "kind", "images")
    for subject in Photographs().subjects:
        table.add_row(subject.name, subject.class_noun, subject.kind, str(len(subject.photos)))
    return table


def _prompts() -> Table:
    from dbbench.data.photographs import Photographs

    dataset = Photographs()
    rows: dict[str, list[str]] = {}
    for subject in sorted(dataset.subjects, key=lambda subject: subject.live):
        for prompt in dataset.prompts(subject):
            row = rows.setdefault(prompt.id, [prompt.category, subject.kind, prompt.text])
            if subject.kind not in row[1]:
                row[1] += f", {subject.kind}"
    table = _table("id", "category", "for", "text")
    for name, row in rows.items():
        table.add_row(name, *row)
    return table


def _suites() -> Table:
    """Return the suites that come with dbbench, then the experiments that extend them."""
    from dbbench.data.dataset import load_dataset, select_subjects
    from dbbench.suites.inheritance import bases, read_suite, suite_names
    from dbbench.suites.suite import load_suite

    table = _table("suite", "backbone", "px", "subjects", "what it is")
    rows = []
    for name in suite_names():
        below, suite = bases(read_suite(name)), load_suite(name)
        backbone = f"that of {' or '.join(below)}" if below else suite.backbone.path
        pixels = "" if below else str(suite.backbone.resolution)
        subjects = len(select_subjects(load_dataset(suite.source), suite.subjects))
        rows.append((bool(below), name, backbone, pixels, str(subjects), suite.description))
    for _, *row in sorted(rows):
        table.add_row(*row)
    return table


def _protocols() -> Table:
    from dbbench.protocols.protocol import load_protocol, protocol_names

    table = _table("protocol", "what it is, what it chooses, and the source")
    for name in protocol_names():
        protocol = load_protocol(name)
        choices = f"references {protocol.references}, text {protocol.text}"
        table.add_row(
            name,
            f"{protocol.description}\n{choices}, mean over {protocol.aggregation}s"
            f"\n[dim]{escape(protocol.source)}[/]\n",
        )
    return table


def _plugins(kind: Kind) -> Table:
    """Return data sets, methods, encoders or metrics, each with the first line of its own file."""
    from dbbench.plugins import describe, names, provenance

    table = _table(kind[:-1], "what it is, and where it is from")
    for name in names(kind):
        what, where = describe(kind, name), provenance(kind, name)
        table.add_row(name, f"{escape(what)}\n[dim]{escape(where)}[/]")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table
