"""Results -> OUT/report/index.html: one page that loads nothing from a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from dbbench.data.dataset import select_subjects
from dbbench.evaluation.flags import FLAGS
from dbbench.evaluation.scores import REAL
from dbbench.files import write_text
from dbbench.reports.formats.table import arrowed, interval, number, p_value, percent, rank, span
from dbbench.reports.page.charts import difference_rows, drawn, known, matrix_of, ranking_rows
from dbbench.reports.page.contact_sheets import make_pictures
from dbbench.reports.page.curves import read_curves
from dbbench.reports.page.flags import Flagged, count_of_one_colour, read_flags
from dbbench.reports.page.gallery import SubjectPictures
from dbbench.reports.page.plots import Plot, draw_plots
from dbbench.reports.page.provenance import credits_of, facts_of
from dbbench.reports.page.tables import HOW
from dbbench.reports.page.verdicts import judge, paper_rows
from dbbench.reports.results import Results

REPORT = "report"
PAGE = "index.html"
EXTREMES = 4
"""Subjects shown as the easiest, and as many as the hardest."""
SHOWN_FLAGS = 12
"""Flagged images shown of each kind, one of each subject and method."""


def write_page(results: Results, price: float | None, more: Mapping[str, Any]) -> Path:
    """Write pictures and plots, then the page that shows them; return the page.

    `price` is the cost of the device per hour; `more` are the user study, the limits and the
    validity, which the page also shows.
    """
    report = results.out / REPORT
    board = results.leaderboard
    methods = [method for method in board.ranking["method"] if method != REAL]
    pictures = make_pictures(
        results.out,
        report,
        subjects=board.expectation.subjects,
        methods=methods,
        seeds=board.expectation.seeds,
    )
    plots = draw_plots(results, report, read_curves(results))
    context = _context(results, pictures, plots, price) | dict(more)
    page = environment().get_template("index.html.j2").render(context)
    write_text(report / PAGE, page)
    return report / PAGE


def environment() -> Environment:
    """Return the templates' environment; it escapes all inserted text."""
    environment = Environment(
        loader=PackageLoader("dbbench.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=number, interval=interval, p_value=p_value, arrowed=arrowed, rank=rank,
        percent=percent, span=span,
    )  # fmt: skip
    environment.filters["url"] = quote
    return environment


def shared_context(results: Results) -> dict[str, Any]:
    """Return what every page needs: its style, the suite, its banner."""
    return {"suite": results.suite, "banner": results.banner, "style": style()}


def style() -> str:
    """Return the style sheet, which is embedded in every page."""
    return files("dbbench.reports").joinpath("style.css").read_text(encoding="utf-8")


def _context(
    results: Results,
    pictures: tuple[SubjectPictures, ...],
    plots: Mapping[str, Plot],
    price: float | None,
) -> dict[str, Any]:
    board = results.leaderboard
    folder = files("dbbench.reports")
    methods = [str(method) for method in board.ranking["method"] if method != REAL]
    return shared_context(results) | {
        "how": HOW,
        "reasons": board.reasons,
        "metrics": [(metric, arrowed(metric)) for metric in results.metrics],
        "methods": methods,
        "colours": {REAL: "oracle"} | {m: f"m{i % 8}" for i, m in enumerate(methods)},
        "real": REAL,
        "images": int(board.ranking.loc[board.ranking["method"] != REAL, "images"].sum()),
        "expectation": board.expectation,
        "planned": len(select_subjects(results.dataset, results.suite.subjects)),
        "ranking": ranking_rows(results),
        "differences": difference_rows(results),
        "published": results.published().to_dict("records"),
        "expected": _expected(results),
        "paper": paper_rows(results),
        "verdicts": judge(results),
        "matrices": [matrix_of(results, "subject"), matrix_of(results, "prompt")],
        "extremes": _extremes(results, pictures),
        "flags": _flags(results, pictures),
        "plots": plots,
        "label": results.label,
        "pictures": pictures,
        "scores": _prompt_scores(results),
        "credits": credits_of(pictures),
        "facts": facts_of(results, price),
        "suite_json": json.dumps(results.record.get("suite"), indent=2, ensure_ascii=False),
        "script": folder.joinpath("templates", "gallery.js").read_text(encoding="utf-8"),
    }


def _extremes(
    results: Results, pictures: Iterable[SubjectPictures]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the easiest and the hardest subjects by the first metric, over all methods."""
    metric, table = results.metrics[0], results.means_by("subject")
    if metric.name not in table.columns:
        return []
    own = drawn(table, metric)
    means = own.mean(axis=1).dropna().sort_values(ascending=not metric.higher_is_better)
    if len(means) < 2:
        return []
    count = min(EXTREMES, len(means) // 2)
    shown = {subject.name: subject for subject in pictures}
    chosen = (("Easiest", means.index[:count]), ("Hardest", means.index[::-1][:count]))
    return [
        (
            title,
            [
                {
                    "name": name,
                    "picture": shown[name],
                    "mean": means[name],
                    "by_method": [(str(m), known(v)) for m, v in own.loc[name].items()],
                }
                for name in names
                if name in shown
            ],
        )
        for title, names in chosen
    ]


def _flags(results: Results, pictures: Iterable[SubjectPictures]) -> dict[str, Any]:
    """Return the number of flagged images by method, and the worst ones to show."""
    flags = read_flags(results)
    shown = {subject.name: subject for subject in pictures}
    worst = []
    for kind in FLAGS:
        own = [flag for (_, name), found in flags.items() if name == kind for flag in found]
        firsts: dict[tuple[str, str], Flagged] = {}
        for flag in sorted(own, key=lambda flag: -flag.found.excess):
            firsts.setdefault((flag.run.subject, flag.run.method), flag)
        for flag in list(firsts.values())[:SHOWN_FLAGS]:
            subject = shown[flag.run.subject]
            sheet = next((s for s in subject.sheets if s.method == flag.run.method), None)
            if sheet is not None:
                worst.append({"flag": flag, "sheet": sheet, "subject": subject})
    methods = [str(m) for m in results.leaderboard.ranking["method"] if m != REAL]
    blank = count_of_one_colour(results)
    table = [
        (
            m,
            *(len(flags[m, kind]) if (m, kind) in flags else None for kind in FLAGS),
            blank[m][0] if m in blank else None,
        )
        for m in methods
    ]
    return {"table": table, "worst": worst}


def _prompt_scores(results: Results) -> Mapping[tuple[str, str, str], str]:
    """Return the caption of each strip: the means of each metric over its images."""
    scores = results.scores.loc[results.scores["prompt"].notna()]
    scores = scores.loc[scores["seed"].isin(results.leaderboard.expectation.seeds)]
    keys = ["method", "subject", "prompt", "metric"]
    means = scores.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()
    labels = {metric.name: metric.label for metric in results.metrics}
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in means.to_dict("records"):
        if row["metric"] in labels:
            line = f"{labels[row['metric']]} {row['value']:.2f}"
            found.setdefault((row["method"], row["subject"], row["prompt"]), []).append(line)
    return {key: " · ".join(lines) for key, lines in found.items()}


def _expected(results: Results) -> list[dict[str, Any]]:
    """Return the suite's expected scores beside those of this run."""
    found = results.leaderboard.ranking.set_index("method")
    return [
        {
            "method": expected.method,
            "label": metric.label,
            "expected": expected.scores[metric.name],
            "found": known(found.loc[expected.method, metric.name])
            if expected.method in found.index
            else None,
            "source": expected.source,
        }
        for expected in results.suite.expected
        for metric in results.metrics
        if metric.name in expected.scores
    ]
