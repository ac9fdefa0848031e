"""Several runs on one page: each by its name, and ranked together where their numbers allow it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dbbench.artifact import write_text

from .comparable import combined, grouped
from .paper import judge
from .render import PAGE, REPORT, environment, shared_context, write_page
from .results import load_results
from .tables import write_tables


def write_overview(folders: Sequence[Path], out: Path, price: float | None = None) -> Path:
    """Write every run's own page, and OUT/index.html with all of them; return that."""
    runs = [load_results(folder) for folder in folders]
    for run in runs:
        write_tables(run, run.out / REPORT / "tables")
        write_page(run, price)
    banners = {run.banner for run in runs}
    context = shared_context(runs[0]) | {
        "banner": banners.pop() if len(banners) == 1 else None,
        "plain": str,
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
                "link": os.path.relpath(run.out / REPORT / PAGE, out),
            }
            for run in runs
        ],
    }
    write_text(out / PAGE, environment().get_template("overview.html.j2").render(context))
    return out / PAGE
