"""The figures of a report, drawn with matplotlib; `plots.py` selects and saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dbbench.evaluation.metric import Metric
from dbbench.evaluation.scores import REAL
from dbbench.reports.page.curves import Curve
from dbbench.reports.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, ORACLE = "#1d1c1a", "#6a675f", "#dedbd2", "#8b887f"
METHODS = (
    "#1f6f8b", "#b4552d", "#5b7f2f", "#7a4e9c", "#a3305f", "#8a7315", "#2f7d6b", "#555f8f",
)  # fmt: skip
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


def method_colours(results: Results) -> dict[str, str]:
    """Return the colour of each method, the same in every plot and on the page."""
    methods = [m for m in results.leaderboard.ranking["method"] if m != REAL]
    return {REAL: ORACLE} | {m: METHODS[i % len(METHODS)] for i, m in enumerate(methods)}


def fidelity_axes(results: Results) -> tuple[Metric, Metric] | None:
    """Return the metrics of the x axis (prompt fidelity) and the y axis (subject fidelity)."""
    x = next((m for m in results.metrics if m.compares == "text"), None)
    y = next((m for m in results.metrics if m.compares == "references"), None)
    return None if x is None or y is None else (x, y)


def trade_off(results: Results) -> Figure:
    """Plot each method's means on both axes with intervals, its subjects, and the ceiling."""
    from matplotlib.figure import Figure

    pair = fidelity_axes(results)
    assert pair is not None
    x, y = pair
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    colours, means = method_colours(results), results.leaderboard.subjects
    for method, row in _rows(results).items():
        colour = colours[method]
        if method == REAL or np.isnan([row[x.name], row[y.name]]).any():
            continue
        own = means.loc[means["method"] == method]
        dots = own.pivot(index="subject", columns="metric", values="mean")
        axes.scatter(dots[x.name], dots[y.name], s=12, color=colour, alpha=0.35, linewidth=0)
        across, upwards = ([row[m.name]] * 2 for m in (x, y))
        ends = [[row[f"{m.name}_low"], row[f"{m.name}_high"]] for m in (x, y)]
        axes.plot(ends[0], upwards, color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(across, ends[1], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.scatter(row[x.name], row[y.name], s=58, color=colour, zorder=3, linewidth=0)
        axes.annotate(
            results.label(method), (row[x.name], row[y.name]), (8, 7),
            textcoords="offset points", color=colour, weight="bold",
        )  # fmt: skip
    published = results.published()
    if len(published):
        known = published.dropna(subset=[x.name, y.name])
        axes.scatter(
            known[x.name], known[y.name], s=18, facecolor="none", edgecolor=SOFT, linewidth=0.8
        )
    ceiling = _rows(results).get(REAL, {}).get(y.name, np.nan)
    if not np.isnan(ceiling):
        axes.axhline(ceiling, color=ORACLE, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.text(
            0.995, ceiling, f"real images {ceiling:.3f}", transform=axes.get_yaxis_transform(),
            ha="right", va="bottom", color=SOFT, fontsize=9,
        )  # fmt: skip
    axes.set_xlabel(f"{x.label}: follows the prompt")
    axes.set_ylabel(f"{y.label}: keeps the subject")
    axes.margins(0.12)
    return figure


def _rows(results: Results) -> dict[str, dict[str, float]]:
    """Return each method's means and interval ends, NaN if missing."""
    ranking = results.leaderboard.ranking
    names = [f"{m.name}{end}" for m in results.metrics for end in ("", "_low", "_high")]
    values = ranking[names].to_numpy(dtype=float)
    return {
        str(method): dict(zip(names, map(float, line), strict=True))
        for method, line in zip(ranking["method"], values, strict=True)
    }


def intervals(results: Results) -> Figure:
    """Plot one panel per metric: each method's mean and interval, in the suite's order."""
    from matplotlib.figure import Figure

    rows = _rows(results)
    methods = [method for method in results.rows if method in rows]
    colours = method_colours(results)
    columns = len(results.metrics)
    height = 0.75 + 0.34 * len(methods)
    figure = Figure(figsize=(max(4.5, 2.6 * columns + 1.4), height), layout="constrained")
    panels = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for metric, axes in zip(results.metrics, panels, strict=True):
        for place, method in enumerate(methods):
            row, colour = rows[method], colours[method]
            ends = [row[f"{metric.name}_low"], row[f"{metric.name}_high"]]
            axes.plot(ends, [place, place], color=colour, linewidth=4, alpha=0.35)
            axes.scatter(row[metric.name], place, s=34, color=colour, zorder=3, linewidth=0)
        axes.set_title(f"{metric.label} {'↑' if metric.higher_is_better else '↓'}")
        axes.set_yticks(range(len(methods)), [results.label(m) for m in methods], color=INK)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def heat(results: Results, table: pd.DataFrame) -> Figure:
    """Plot a heat map: a row per subject or prompt, a panel per metric, a column per method."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    shown = [m for m in results.metrics if m.name in table.columns.get_level_values(0)]
    widths = [table[m.name].shape[1] for m in shown]
    figure = Figure(
        figsize=(2.2 + 0.62 * sum(widths), 1.5 + 0.24 * len(table)), layout="constrained"
    )
    panels = figure.subplots(
        1, max(1, len(shown)), sharey=True, squeeze=False, width_ratios=widths or [1]
    )[0]
    tint = LinearSegmentedColormap.from_list("tint", ["#ffffff", "#2f6d8c"])
    for metric, axes in zip(shown, panels, strict=False):
        values = table[metric.name].to_numpy(dtype=float)
        axes.imshow(values, aspect="auto", cmap=tint)
        middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "#ffffff" if value > middle + 0.2 * (np.nanmax(values) - middle) else INK
                axes.text(
                    j, i, f"{value:.2f}"[-3:] if 0 <= value < 1 else f"{value:.2f}",
                    ha="center", va="center", fontsize=7.5, color=colour,
                )  # fmt: skip
        axes.set_title(metric.label)
        names = [results.label(str(m)) for m in table[metric.name].columns]
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8, color=INK)
        axes.set_yticks(range(len(table)), [str(i) for i in table.index], fontsize=8, color=INK)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return figure


def training(results: Results, curves: Sequence[Curve]) -> Figure:
    """Plot one panel per method: the losses of its trainings and their median."""
    from matplotlib.figure import Figure

    colours = method_colours(results)
    methods = list(dict.fromkeys(c.method for c in curves))
    figure = Figure(figsize=(min(10, 0.6 + 3.4 * len(methods)), 2.9), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for method, axes in zip(methods, panels, strict=True):
        own = [c for c in curves if c.method == method]
        colour = colours.get(method, INK)
        for curve in own:
            axes.plot(curve.steps, curve.losses, color=colour, linewidth=0.7, alpha=0.22)
        _median(axes, own, colour)
        axes.set_title(results.label(method))
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("loss")
    return figure


def _median(axes: Axes, curves: Sequence[Curve], colour: str) -> None:
    length = min(len(curve.steps) for curve in curves)
    same = [c.losses for c in curves if len(c.steps) == length]
    steps = next(c.steps for c in curves if len(c.steps) == length)
    axes.plot(steps, np.median(np.stack(same), axis=0), color=colour, linewidth=1.9)
