"""`dbbench list`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from dbbench.errors import unknown

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
    from dbbench import listing

    console = Console()
    match what:
        case "subjects":
            console.print(listing.subjects_table())
        case "prompts":
            console.print(listing.prompts_table(), markup=False)
        case "suites":
            console.print(listing.suites_table())
        case "methods" | "metrics" | "encoders":
            console.print(listing.plugins_table(what))
        case "protocols":
            console.print(listing.protocols_table())
        case _:
            raise unknown("list", what, LISTS, "")
