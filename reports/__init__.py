"""Reports: an output folder -> tables on the terminal and in files, and one page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

__all__ = ["print_leaderboard", "write_report"]


def write_report(out: Path) -> Path:
    """Write OUT/leaderboard.{parquet,csv,md} with its companions and OUT/report; return the page.

    Nothing leaves the folder and nothing is fetched; pictures that are up to date are kept. Raises
    UserError where `out` holds no scored run.
    """
    from .render import write_page
    from .results import load_results
    from .tables import write_tables

    results = load_results(out)
    write_tables(results)
    return write_page(results)


def print_leaderboard(out: Path, console: Console) -> None:
    """Print the leaderboard and the paired differences. Raises UserError as `write_report` does."""
    from .results import load_results
    from .tables import print_tables

    print_tables(load_results(out), console)
