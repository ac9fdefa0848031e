"""Reports: an output folder -> tables on the terminal and in files, and one page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

__all__ = ["print_findings", "print_leaderboard", "write_overview", "write_report"]


def write_report(
    out: Path, *, price: float | None = None, studies: Sequence[Path] | None = None
) -> Path:
    """Write OUT/leaderboard.{parquet,csv,md} with its companions and OUT/report; return the page.

    OUT/report holds the page, plots/ (SVG, PNG) and tables/ (Markdown, CSV, Parquet, LaTeX).
    `studies` are folders or answers of user studies to show; None shows those beside `out` that
    were made of it and have been answered.

    Nothing leaves the folder and nothing is fetched; pictures that are up to date are kept. Raises
    UserError where `out` holds no scored run.
    """
    from dbbench.reports.overview import write_run
    from dbbench.reports.results import load_results
    from dbbench.reports.study.preferences import find_preferences, read_preferences

    study = find_preferences(out) if studies is None else read_preferences(studies)
    return write_run(load_results(out), price, study).page


def write_overview(
    folders: Sequence[Path],
    out: Path,
    *,
    price: float | None = None,
    missing: Sequence[str] = (),
    studies: Sequence[Path] | None = None,
) -> Path:
    """Write the report of each folder, and a page in `out` that shows them all; return that.

    `missing` lists the runs without results and the reasons. `studies` as for `write_report`.
    """
    from dbbench.reports.overview import write_overview
    from dbbench.reports.study.preferences import read_preferences

    given = None if studies is None else read_preferences(studies)
    return write_overview(folders, out, price, missing, given)


def print_findings(folders: Sequence[Path], console: Console) -> None:
    """Print the verdict of each folder on the findings of its paper."""
    from dbbench.reports.overview import print_findings

    print_findings(folders, console)


def print_leaderboard(out: Path, console: Console) -> None:
    """Print the leaderboard and the paired differences. Raises UserError as `write_report` does."""
    from dbbench.reports.page.tables import print_tables
    from dbbench.reports.results import load_results

    print_tables(load_results(out), console)
