"""Two runs side by side: paired differences, overall and by category; the largest changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from dbbench.errors import UserError
from dbbench.evaluation.metric import Metric
from dbbench.evaluation.scores import REAL
from dbbench.evaluation.statistics import Difference, paired_differences
from dbbench.files import write_text
from dbbench.reports.comparable import difference_between, identity, names_of
from dbbench.reports.formats.table import interval, number, p_value
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.page.contact_sheets import make_pictures
from dbbench.reports.page.gallery import SubjectPictures
from dbbench.reports.results import Results, load_results

MOVED = 6
"""Number of subjects shown, those with the largest change."""


@dataclass(frozen=True)
class Change:
    """Second run minus first on one metric and category, paired by subject."""

    category: str
    """"all", or the prompts' category."""
    metric: Metric
    found: Difference


@dataclass(frozen=True)
class Moved:
    """A subject, its two means on the first metric, and its prompt with the largest change."""

    subject: str
    first: float
    second: float
    prompt: str


@dataclass(frozen=True)
class Comparison:
    """One method of the first run compared with one method of the second."""

    first: Results
    second: Results
    methods: tuple[str, str]
    changes: tuple[Change, ...]
    moved: tuple[Moved, ...]
    """The subjects with the largest change; those without any change are left out."""

    @property
    def names(self) -> list[str]:
        """Short names of the two runs."""
        return names_of((self.first, self.second))

    @property
    def partial(self) -> list[str]:
        """One line for each unfinished run: what it lacks."""
        runs = zip(self.names, (self.first, self.second), strict=True)
        return [f"{name} is not finished ({run.missing})" for name, run in runs if run.missing]

    @property
    def title(self) -> str:
        """The two methods, each with its run."""
        (a, b), (one, two) = self.methods, self.names
        return f"{two}: {b} minus {one}: {a}"


def compare_runs(first: Path, second: Path) -> tuple[Comparison, ...]:
    """Compare the methods that are in both runs, or the only method of each under any name.

    Raises UserError if the runs cannot be compared, or if no method is in both.
    """
    a, b = load_results(first), load_results(second)
    if problem := difference_between(identity(a), identity(b)):
        raise UserError(f"{first} and {second} cannot be compared; they differ in {problem}")
    ours, theirs = a.leaderboard.expectation.methods, b.leaderboard.expectation.methods
    pairs = [(name, name) for name in ours if name in theirs]
    if not pairs and len(ours) == len(theirs) == 1:
        pairs = [(ours[0], theirs[0])]
    if not pairs:
        raise UserError(
            f"no method is in both: {first} has {', '.join(ours)}, {second} {', '.join(theirs)}"
        )
    return tuple(_compare(a, b, pair) for pair in pairs)


def _compare(a: Results, b: Results, methods: tuple[str, str]) -> Comparison:
    one = a.scores.loc[a.scores["method"] == methods[0]]
    two = b.scores.loc[b.scores["method"] == methods[1]]
    categories = ["all", *dict.fromkeys(one["category"].dropna())]
    pairs = [
        (category, metric, pair)
        for metric in a.metrics
        for category in categories
        if len(pair := _paired(one, two, metric.name, category))
    ]
    found = paired_differences((pair["b"], pair["a"]) for _, _, pair in pairs)
    changes = [Change(c, m, each) for (c, m, _), each in zip(pairs, found, strict=True)]
    return Comparison(a, b, methods, tuple(changes), _moved(one, two, a.metrics[0]))


def _paired(one: pd.DataFrame, two: pd.DataFrame, metric: str, category: str) -> pd.DataFrame:
    """Return the means of the subjects that are in both tables, as columns a and b."""
    sides = {}
    for side, table in (("a", one), ("b", two)):
        own = table.loc[table["metric"] == metric]
        if category != "all":
            own = own.loc[own["category"] == category]
        sides[side] = own.groupby("subject", observed=True)["value"].mean()
    return pd.DataFrame(sides).dropna()


def _moved(one: pd.DataFrame, two: pd.DataFrame, metric: Metric) -> tuple[Moved, ...]:
    pair = _paired(one, two, metric.name, "all")
    by = (pair["b"] - pair["a"]).abs().sort_values(ascending=False)
    moved = []
    for subject in map(str, by[by > 0].index[:MOVED]):
        sides = [
            table.loc[(table["subject"] == subject) & (table["metric"] == metric.name)]
            .groupby("prompt", observed=True)["value"]
            .mean()
            for table in (one, two)
        ]
        change = (sides[1] - sides[0]).abs().dropna()
        prompt = str(change.idxmax()) if len(change) else ""
        moved.append(Moved(subject, float(pair["a"][subject]), float(pair["b"][subject]), prompt))
    return tuple(moved)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the differences, then the subjects with the largest change."""
    banner = comparison.first.banner
    rows = []
    for change in comparison.changes:
        found, name = change.found, f"{change.metric.label}, {change.category}"
        style = "bold" if change.category == "all" else ""
        between = interval(found.interval.low, found.interval.high, signed=True)
        cells = [name, number(found.mean, signed=True), between, p_value(found.p_holm)]
        rows.append([Text(cell, style=style) for cell in (*cells, str(found.subjects))])
    header = ("metric, prompts", "difference", "95%", "p (Holm)", "subjects")
    print_table(console, comparison.title, header, rows, banners=[banner] if banner else [])
    for line in comparison.partial:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    label = comparison.first.metrics[0].label
    console.print("subjects with the largest change:" if comparison.moved else "no subject changed")
    for moved in comparison.moved:
        line = f"  {moved.subject}: {label} {moved.first:.3f} -> {moved.second:.3f}"
        if moved.prompt:
            line += f", largest change in {moved.prompt}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_comparison(comparisons: tuple[Comparison, ...], out: Path) -> Path:
    """Write a page with the tables, and the images of the subjects with the largest change."""
    from dbbench.reports.page.render import environment, shared_context

    subjects = {m.subject for c in comparisons for m in c.moved}
    shown: list[dict[str, SubjectPictures]] = []
    for position, results in enumerate((comparisons[0].first, comparisons[0].second)):
        expectation = results.leaderboard.expectation
        pictures = make_pictures(
            results.out,
            out / "ab"[position],
            subjects=[name for name in expectation.subjects if name in subjects],
            methods=[m for m in expectation.methods if m != REAL],
            seeds=expectation.seeds,
        )
        shown.append({subject.name: subject for subject in pictures})
    context = shared_context(comparisons[0].first) | {
        "comparisons": comparisons,
        "names": comparisons[0].names,
        "shown": shown,
    }
    write_text(out / "index.html", environment().get_template("compare.html.j2").render(context))
    return out / "index.html"
