"""Write validity results: page, tables in four formats, plot, examples; link them from reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console

from dbbench.data.dataset import select_subjects
from dbbench.evaluation.limits import LIMITS, SOURCE
from dbbench.evaluation.metric import load_metric
from dbbench.files import read_json, write_text
from dbbench.mini.source import MiniWorld
from dbbench.reports.formats.latex import latex_document
from dbbench.reports.formats.table import Table, cell, markdown_table, write_table
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.page.plots import Plot, inline, write_plot
from dbbench.suites.suite import load_suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbench.reports.results import Results
    from dbbench.validity.measure import Validity
    from dbbench.validity.truth import Examples

VALIDITY_FILE = "validity.json"
VALIDITY_FOLDER = "validity"
EXAMPLE_SUBJECTS = ("dog", "teapot", "monster_toy")
STRIP_PROMPTS = (
    "jungle",
    "snow",
    "beach",
    "cobblestone-street",
    "pink-fabric",
    "wooden-floor",
    "red",
    "cube",
)
"""The prompts whose images are shown."""


def write_validity(validity: Validity, examples: Examples, out: Path) -> Path:
    """Write all files into `out` and return the page; validity.json is written last."""
    from dbbench.reports.page.render import PAGE, environment, style
    from dbbench.reports.validity.validity_tables import lessons, validity_tables

    banner = _banner()
    tables = validity_tables(validity)
    for table in tables:
        write_table(table, out / "tables", origin="validity of the metrics", banners=[banner])
    write_text(out / "tables" / "all.tex", latex_document(table.name for table in tables))
    learned = lessons(validity)
    text = ["# dbbench: validity of the metrics\n", *(f"- {cell(line)}\n" for line in learned)]
    write_text(
        out / "validity.md", "\n".join([*text, *(markdown_table(t, [banner]) for t in tables)])
    )
    context = {
        "banner": banner,
        "style": style(),
        "record": validity.record,
        "lessons": learned,
        "tables": tables,
        "limits": LIMITS,
        "source": SOURCE,
        "plot": _plot(validity, out, banner),
        "strips": _write_strips(examples, out),
    }
    write_text(out / PAGE, environment().get_template("validity.html.j2").render(context))
    record = dict(validity.record) | {"lessons": learned}
    write_text(out / VALIDITY_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return out / PAGE


def read_validity(out: Path) -> tuple[dict[str, Any], tuple[Table, ...]]:
    """Return a folder's record and tables; both are empty if there are no results."""
    from dbbench.reports.validity.validity_tables import validity_tables
    from dbbench.validity.measure import Validity

    record = read_json(out / VALIDITY_FILE)
    if not record:
        return {}, ()

    def read(name: str) -> pd.DataFrame:
        table = pd.read_parquet(out / "tables" / f"{name}.parquet")
        return table.drop(columns="banner", errors="ignore")

    validity = Validity(
        record,
        means=read("validity-kinds"),
        orders=read("validity-orders"),
        correlations=read("validity-correlations"),
        power=read("validity-power"),
        limits=read("limits-truth"),
    )
    return record, tuple(validity_tables(validity))


def print_validity(tables: Sequence[Table], learned: Sequence[str], console: Console) -> None:
    """Print the tables, then their lessons."""
    for table in tables:
        left = range(table.texts)
        print_table(console, table.title, table.header, table.rows, banners=[_banner()], left=left)
    for line in learned:
        console.print(line, highlight=False, markup=False)


@dataclass(frozen=True)
class ValidityLink:
    """What a run's report shows of validity; without `page`, the command that makes it."""

    lessons: tuple[str, ...] = ()
    page: str = ""


def link_validity(results: Results, report: Path) -> ValidityLink | None:
    """Copy validity results with the run's encoders, from a folder beside it, into its report.

    None if the run is not of the embedded world: the truth is known for that world only.
    """
    if results.suite.source != MiniWorld.name or not results.banner:
        return None
    used = results.record.get("identities", {}).get("encoders", {})
    for place in sorted(results.out.absolute().parent.glob(f"*/{VALIDITY_FILE}")):
        record = read_json(place)
        made = record.get("encoders", {})
        if made and all(
            used.get(role, {}).get("fingerprint") == mark for role, mark in made.items()
        ):
            target = report / VALIDITY_FOLDER
            if read_json(target / VALIDITY_FILE) != record:
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(place.parent, target)
            return ValidityLink(tuple(record.get("lessons", ())), f"{VALIDITY_FOLDER}/index.html")
    shutil.rmtree(report / VALIDITY_FOLDER, ignore_errors=True)
    return ValidityLink()


def _banner() -> str:
    return load_suite("mini").banner or ""


def _plot(validity: Validity, out: Path, banner: str) -> Plot:
    title = "Scores of each kind of image"
    files = [out / "plots" / f"kinds.{kind}" for kind in ("svg", "png")]
    write_plot(lambda: _draw(validity), files, title, banner)
    svg = inline(files[0].read_text(encoding="utf-8"))
    return Plot("kinds", title, "Each kind's mean on each metric, with its 95% interval", svg)


def _draw(validity: Validity) -> Figure:
    """Draw one panel per metric and one row per kind of image."""
    from matplotlib.figure import Figure

    from dbbench.reports.page.figures import INK, METHODS

    means = validity.means
    metrics = [m for m in map(load_metric, dict.fromkeys(means["metric"])) if
               m.compares in {"references", "text"}]  # fmt: skip
    kinds = [k for k in dict.fromkeys(means["kind"]) if not k.startswith("class ")]
    figure = Figure(
        figsize=(2.6 * len(metrics) + 2.2, 0.34 * len(kinds) + 0.9), layout="constrained"
    )
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for place, (metric, axes) in enumerate(zip(metrics, panels, strict=True)):
        own = means.loc[means["metric"] == metric.name].set_index("kind").loc[kinds]
        colour = METHODS[place]
        for row, (low, high) in enumerate(own[["low", "high"]].to_numpy(dtype=float)):
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [row, row], color=colour, linewidth=4, alpha=0.35)
        axes.scatter(own["value"], range(len(kinds)), s=34, color=colour, zorder=3, linewidth=0)
        axes.set_title(metric.label)
        axes.set_yticks(range(len(kinds)), kinds, color=INK)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_ylim(len(kinds) - 0.5, -0.5)
    return figure


def _write_strips(examples: Examples, out: Path) -> list[dict[str, Any]]:
    """Write one strip per example subject and kind: the same prompts side by side."""
    found = []
    world = MiniWorld()
    for subject, shown in examples.items():
        (known,) = select_subjects(world, subject)
        texts = {p.id: p.render("", known.class_noun) for p in world.prompts(known)}
        prompts = [p for p in STRIP_PROMPTS if ("perfect", p) in shown]
        strips = []
        for kind in dict.fromkeys(kind for kind, _ in shown):
            row = [shown[kind, p] for p in prompts if (kind, p) in shown]
            row = row or [image for (k, _), image in shown.items() if k == kind]
            file = f"examples/{subject}-{kind.replace(' ', '-')}.png"
            path = out / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(row, axis=1)).save(path)
            size = {"width": row[0].shape[1] * len(row), "height": row[0].shape[0]}
            strips.append({"kind": kind, "file": quote(file), **size})
        found.append({"subject": subject, "strips": strips, "prompts": [texts[p] for p in prompts]})
    return found
