"""`dbbench list`: tables of what there is to choose from; no plugin is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dbbench.errors import unknown

if TYPE_CHECKING:
    from dbbench.plugins import Kind

LISTS = ("subjects", "prompts", "suites", "methods", "metrics", "encoders", "protocols")

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
        case "methods" | "metrics" | "encoders":
            console.print(_plugins(what))
        case "protocols":
            console.print(_protocols())
        case _:
            raise unknown("list", what, LISTS, "")


def _subjects() -> Table:
    from dbbench.data.subject import load_subjects

    table = _table("subject", "class noun", "kind", "images")
    for subject in load_subjects():
        table.add_row(subject.name, subject.class_noun, subject.kind, str(len(subject.photos)))
    return table


def _prompts() -> Table:
    from dbbench.data.prompt import load_prompts

    table = _table("id", "category", "for", "text")
    objects, live = load_prompts(False), load_prompts(True)
    both = {prompt.id for prompt in objects} & {prompt.id for prompt in live}
    for prompt in objects:
        kind = "object, live" if prompt.id in both else "object"
        table.add_row(prompt.id, prompt.category, kind, prompt.text)
    for prompt in live:
        if prompt.id not in both:
            table.add_row(prompt.id, prompt.category, "live", prompt.text)
    return table


def _suites() -> Table:
    """Return the suites that come with dbbench, then the experiments that extend them."""
    from dbbench.suites.inheritance import bases, read_suite, suite_names
    from dbbench.suites.suite import load_suite

    table = _table("suite", "backbone", "px", "subjects", "what it is")
    experiments = []
    for name in suite_names():
        values = read_suite(name)
        if below := bases(values):
            experiments.append((name, f"that of {' or '.join(below)}", "", values))
        else:
            backbone = load_suite(name).backbone
            table.add_row(name, backbone.path, str(backbone.resolution), *_about(values))
    for name, below_it, resolution, values in experiments:
        table.add_row(name, below_it, resolution, *_about(values))
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


def _about(values: dict[str, Any]) -> tuple[str, str]:
    from dbbench.data.subject import select_subjects

    return str(len(select_subjects(values.get("subjects", "all")))), values["description"]


def _plugins(kind: Kind) -> Table:
    """Return methods, encoders or metrics, each with the first line of its own file."""
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
