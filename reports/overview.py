"""Several runs on one page: each by its name, and ranked together where their numbers allow it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dbbench.artifact import write_text

from .comparable import combined, grouped
from .limits import read_limits, write_limits
from .paper import judge, paper_rows
from .preferences import Preferences, find_preferences
from .render import PAGE, REPORT, environment, shared_context, write_page
from .results import Results, load_results
from .study import write_study
from .table import arrowed
from .tables import print_verdicts, write_tables
from .validity import link_validity


def write_run(results: Results, price: float | None, study: Preferences) -> Path:
    """Write a run's tables and its page, with what people said of it; return the page."""
    report = results.out / REPORT
    tables, limits = report / "tables", read_limits(results, report)
    more = [*write_limits(limits, results, tables), *write_study(study, tables)]
    write_tables(results, tables, more)
    shown = {"study": study, "limits": limits, "validity": link_validity(results, report)}
    return write_page(results, price, shown)


def write_overview(
    folders: Sequence[Path],
    out: Path,
    price: float | None = None,
    missing: Sequence[str] = (),
    given: Preferences | None = None,
) -> Path:
    """Write every run's own page, and OUT/index.html with all of them; return that.

    `missing` says what has no results, and why; `given` are the studies to show in place of those
    that lie beside each run.
    """
    runs = [load_results(folder) for folder in folders]
    study = find_preferences(*folders) if given is None else given
    for run in runs:
        write_run(run, price, study.of(run.out))
    write_study(study, out / "tables")
    banners = {run.banner for run in runs}
    context = shared_context(runs[0]) | {
        "banner": banners.pop() if len(banners) == 1 else None,
        "plain": str,
        "missing": missing,
        "outcomes": Counter(verdict.outcome for run in runs for verdict in judge(run)),
        "study": study,
        "groups": [
            {
                "title": ", ".join(run.out.name for run in group),
                "banner": group[0].banner,
                "board": combined(group),
            }
            for group in grouped(runs)
            if len(group) > 1
        ],
        "runs": [
            {
                "results": run,
                "verdicts": judge(run),
                "paper": paper_rows(run),
                "metrics": [(metric, arrowed(metric)) for metric in run.metrics],
                "link": os.path.relpath(run.out / REPORT / PAGE, out),
            }
            for run in runs
        ],
    }
    write_text(out / PAGE, environment().get_template("overview.html.j2").render(context))
    return out / PAGE


def print_findings(folders: Sequence[Path], console: Console) -> None:
    """Print the verdicts of every run under the title of its table, and the banner they share."""
    runs = [load_results(folder) for folder in folders]
    for run in runs:
        if run.suite.table is not None:
            title = f"{run.suite.table.title} ({run.suite.name})"
            console.print(escape(title), style="bold", highlight=False)
            print_verdicts(run, console)
    for banner in dict.fromkeys(run.banner for run in runs if run.banner):
        console.print(escape(banner), style="yellow", highlight=False)
