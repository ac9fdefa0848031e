"""Plots of a report as SVG and PNG; the page shows the SVG with the page's colours.

Importing matplotlib takes longer than everything else together. So a plot is only drawn if its
numbers have changed, and matplotlib is only imported if a plot is drawn.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.files import fingerprint, read_json, write_text
from dbbench.reports.page.curves import Curve
from dbbench.reports.page.figures import (
    INK,
    LINE,
    METHODS,
    ORACLE,
    SOFT,
    STYLE,
    fidelity_axes,
    heat,
    intervals,
    trade_off,
    training,
)
from dbbench.reports.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS_VERSION = 1  # Increase when the same numbers are drawn differently.
PLOTS_FILE = ".plots.json"


@dataclass(frozen=True)
class Plot:
    """One drawn plot: `name`.svg and .png are in the report's folder plots/."""

    name: str
    title: str
    description: str
    """Text for screen readers."""
    svg: str
    """For use inside a page: without ids and namespaces, with colours as CSS variables."""


def draw_plots(results: Results, report: Path, curves: Sequence[Curve]) -> dict[str, Plot]:
    """Write all plots for which there are results; return them by name."""
    known, made, plots = read_json(report / PLOTS_FILE), {}, {}
    for name, title, description, data, draw in _wanted(results, curves):
        key = fingerprint([PLOTS_VERSION, name, results.banner, data])
        files = [report / "plots" / f"{name}.{kind}" for kind in ("svg", "png")]
        if known.get(name) != key or not all(file.is_file() for file in files):
            write_plot(draw, files, title, results.banner)
        made[name] = key
        svg = inline(files[0].read_text(encoding="utf-8"))
        plots[name] = Plot(name, title, description, svg)
    for path in (report / "plots").glob("*"):
        if path.stem not in made:
            path.unlink()
    write_text(report / PLOTS_FILE, json.dumps(made, indent=1) + "\n")
    return plots


Wanted = tuple[str, str, str, Any, Callable[[], "Figure"]]


def _wanted(results: Results, curves: Sequence[Curve]) -> list[Wanted]:
    board = results.leaderboard
    ranking = json.loads(board.ranking.to_json(orient="split"))
    means = json.loads(board.subjects.to_json(orient="split"))
    order = list(results.suite.methods)
    wanted: list[Wanted] = []
    pair = fidelity_axes(results)
    if pair is not None:
        x, y = (metric.label for metric in pair)
        description = f"Each method's mean {y} over its mean {x}, with 95% intervals"
        published = json.loads(results.published().to_json(orient="split"))
        data = [ranking, means, published]
        title = f"Trade-off: {y} against {x}"
        wanted.append(("trade-off", title, description, data, partial(trade_off, results)))
    description = "Each method's mean on each metric, with its 95% interval"
    data = [ranking, order]
    wanted.append(("intervals", "Means", description, data, partial(intervals, results)))
    for name, column in (("subjects", "subject"), ("prompts", "prompt")):
        table = results.means_by("subject" if column == "subject" else "prompt")
        data = json.loads(table.to_json(orient="split"))
        description = f"Each method's mean for each {column}"
        title = f"By {column}"
        wanted.append((name, title, description, data, partial(heat, results, table)))
    if curves:
        data = [[c.method, c.subject, c.steps.tolist(), c.losses.tolist()] for c in curves]
        description = "The training loss of each subject, and their median, over the steps"
        title = "Training loss"
        wanted.append(("training", title, description, data, partial(training, results, curves)))
    return wanted


def write_plot(
    draw: Callable[[], Figure], files: Sequence[Path], title: str, banner: str | None
) -> None:
    """Draw a figure in the report's style into each of the files, its banner below it."""
    import matplotlib

    style: dict[Any, Any] = dict(STYLE)
    with matplotlib.rc_context({**style, "svg.hashsalt": files[0].stem}):
        figure = draw()
        if banner:
            figure.supxlabel(banner, fontsize=7.5, color=SOFT, x=0.01, ha="left")
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            kind = file.suffix[1:]
            metadata = {"Title": title, "Date": None} if kind == "svg" else {"Title": title}
            figure.savefig(buffer, format=kind, metadata=metadata)
            temporary = file.with_name(f".{file.name}")
            temporary.write_bytes(buffer.getvalue())
            temporary.replace(file)


def inline(svg: str) -> str:
    """Return an SVG file's text for use inside a page (see `Plot.svg`)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg)
    variables = {INK: "--ink", SOFT: "--soft", LINE: "--line", ORACLE: "--oracle"}
    variables |= {colour: f"--m{i}" for i, colour in enumerate(METHODS)}
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("#ffffff", "var(--paper)")
