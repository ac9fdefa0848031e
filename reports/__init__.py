"""Reports: an output folder -> tables on the terminal and in files, and one page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

__all__ = ["print_leaderboard", "write_overview", "write_report"]


def write_report(out: Path, *, price: float | None = None) -> Path:
    """Write OUT/leaderboard.{parquet,csv,md} with its companions and OUT/report; return the page.

    OUT/report holds the page, plots/ (SVG, PNG) and tables/ (Markdown, CSV, Parquet, LaTeX).

    Nothing leaves the folder and nothing is fetched; pictures that are up to date are kept. Raises
    UserError where `out` holds no scored run.
    """
    from .render import REPORT, write_page
    from .results import load_results
    from .tables import write_tables

    results = load_results(out)
    write_tables(results, out / REPORT / "tables")
    return write_page(results, price)


def write_overview(folders: Sequence[Path], out: Path, *, price: float | None = None) -> Path:
    """Write the report of each folder, and a page in `out` that shows them all; return that."""
    from .overview import write_overview

    return write_overview(folders, out, price)


def print_leaderboard(out: Path, console: Console) -> None:
    """Print the leaderboard and the paired differences. Raises UserError as `write_report` does."""
    from .results import load_results
    from .tables import print_tables

    print_tables(load_results(out), console)
