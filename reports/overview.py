"""Several runs on one page: each by its name; comparable runs are also ranked together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from dbbench.evaluation.limits import LIMITS
from dbbench.files import write_text
from dbbench.reports.comparable import combined, grouped, names_of
from dbbench.reports.formats.table import arrowed
from dbbench.reports.page.limits import Limits, read_limits, write_limits
from dbbench.reports.page.render import PAGE, REPORT, environment, shared_context, write_page
from dbbench.reports.page.tables import print_verdicts, write_tables
from dbbench.reports.page.verdicts import judge, paper_rows
from dbbench.reports.results import Results, load_results
from dbbench.reports.study.pages import write_study
from dbbench.reports.study.preferences import Preferences, find_preferences
from dbbench.reports.validity.pages import ValidityLink, link_validity


@dataclass(frozen=True)
class Written:
    """A run's page, and its parts that the page of several runs also shows."""

    page: Path
    limits: Limits
    validity: ValidityLink | None


def write_run(results: Results, price: float | None, study: Preferences) -> Written:
    """Write a run's tables and its page, with the results of its user study."""
    report = results.out / REPORT
    tables, limits = report / "tables", read_limits(results, report)
    more = [*write_limits(limits, results, tables), *write_study(study, tables)]
    write_tables(results, tables, more)
    validity = link_validity(results, report)
    shown = {"study": study, "limits": limits, "validity": validity}
    return Written(write_page(results, price, shown), limits, validity)


def write_overview(
    folders: Sequence[Path],
    out: Path,
    price: float | None = None,
    missing: Sequence[str] = (),
    given: Preferences | None = None,
) -> Path:
    """Write every run's own page, and OUT/index.html with all of them; return that.

    `missing` lists the runs without results and the reasons; `given` are the studies to show
    instead of those found beside the runs.
    """
    runs = [load_results(folder) for folder in folders]
    study = find_preferences(*folders) if given is None else given
    written = [write_run(run, price, study.of(run.out)) for run in runs]
    write_study(study, out / "tables")
    names = dict(zip((run.out for run in runs), names_of(runs), strict=True))
    suites = Counter(run.suite.name for run in runs)
    titles = [
        run.suite.name if suites[run.suite.name] == 1 else f"{run.suite.name} ({names[run.out]})"
        for run in runs
    ]
    banners = {run.banner for run in runs}
    context = shared_context(runs[0]) | {
        "banner": banners.pop() if len(banners) == 1 else None,
        "plain": str,
        "missing": missing,
        "outcomes": Counter(verdict.outcome for run in runs for verdict in judge(run)),
        "study": study,
        "limits": LIMITS if any(each.limits.table.rows for each in written) else (),
        "validity": _validity(runs, written, out),
        "groups": [
            {
                "title": ", ".join(names[run.out] for run in group),
                "banner": group[0].banner,
                "board": combined(group),
            }
            for group in grouped(runs)
            if len(group) > 1
        ],
        "runs": [
            {
                "name": title,
                "results": run,
                "limits": own.limits,
                "verdicts": judge(run),
                "paper": paper_rows(run),
                "metrics": [(metric, arrowed(metric)) for metric in run.metrics],
                "link": os.path.relpath(own.page, out),
            }
            for run, title, own in zip(runs, titles, written, strict=True)
        ],
    }
    write_text(out / PAGE, environment().get_template("overview.html.j2").render(context))
    return out / PAGE


def _validity(
    runs: Sequence[Results], written: Sequence[Written], out: Path
) -> list[tuple[str, ValidityLink]]:
    """Return each validity once, with the banner of its runs and a link from `out`."""
    found: dict[tuple[str, ...], tuple[str, ValidityLink]] = {}
    for run, own in zip(runs, written, strict=True):
        if own.validity is not None:
            page = os.path.relpath(own.page.parent / own.validity.page, out)
            linked = replace(own.validity, page=page if own.validity.page else "")
            found.setdefault(own.validity.lessons, (run.banner or "", linked))
    return [each for each in found.values() if each[1].page] or list(found.values())


def print_findings(folders: Sequence[Path], console: Console) -> None:
    """Print the verdicts of every run under the title of its table, and the banner they share."""
    runs = [load_results(folder) for folder in folders]
    for run in runs:
        if run.suite.table is not None:
            title = f"{run.suite.table.title} ({run.suite.name})"
            console.print(title, style="bold", highlight=False, markup=False)
            print_verdicts(run, console)
    for banner in dict.fromkeys(run.banner for run in runs if run.banner):
        console.print(banner, style="yellow", highlight=False, markup=False)
