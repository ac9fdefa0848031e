"""`dbbench report`: the leaderboard of a finished run, in the terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dbbench.cli.options import latest

app = typer.Typer()


@app.command(epilog="Example:  dbbench report results/mini")
def report(
    folder: Annotated[
        Path | None, typer.Argument(help="An output folder. Default: the latest in results.")
    ] = None,
) -> None:
    """Print the leaderboard of an output folder and write its HTML page anew."""
    from dbbench.reports import print_leaderboard, write_report

    console = Console()
    place = folder or latest()
    page = write_report(place)
    print_leaderboard(place, console)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)
