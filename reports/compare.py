"""Two runs side by side: paired differences, overall and by category; the largest changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from dbbench.errors import UserError
from dbbench.evaluation.decision import Difference, decide
from dbbench.evaluation.metric import Metric
from dbbench.evaluation.pairing import Shared, shared_rows
from dbbench.evaluation.scores import REAL
from dbbench.files import write_text
from dbbench.reports.comparable import difference_between, identity, names_of
from dbbench.reports.formats.table import interval, number, p_value
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.page.contact_sheets import make_pictures
from dbbench.reports.page.gallery import SubjectPictures
from dbbench.reports.results import Results, load_results

FAMILY = (
    "family: how many comparisons are decided together, all prompts of a metric, or its categories"
    " (exploratory)"
)
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
    """The subjects that moved most; those that did not move at all are left out."""
    left_out: tuple[str, ...] = ()
    """What of each run has no counterpart in the other, and is not compared."""

    @property
    def names(self) -> list[str]:
        """Short names of the two runs."""
        return names_of((self.first, self.second))

    @property
    def partial(self) -> list[str]:
        """One line for each run that is not whole, and for what has no counterpart."""
        runs = zip(self.names, (self.first, self.second), strict=True)
        lines = [f"{name} is not finished ({run.missing})" for name, run in runs if run.missing]
        return lines + list(self.left_out)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Why families cannot be decided."""
        return _once([c.found.interval.reason for c in self.changes if c.found.interval.reason])

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
    return _compare(a, b, pairs)


def _compare(a: Results, b: Results, pairs: Sequence[tuple[str, str]]) -> tuple[Comparison, ...]:
    """Decide one family a metric for all prompts, and one a metric for all categories."""
    changes: dict[tuple[str, str], list[Change]] = {pair: [] for pair in pairs}
    left_out: dict[tuple[str, str], list[str]] = {pair: [] for pair in pairs}
    for metric in a.metrics:
        shared = {pair: _shared(a, b, pair, metric) for pair in pairs}
        for pair, each in shared.items():
            left_out[pair] += filter(None, [each.problem, each.swapped.note(*names_of((b, a)))])
        whole = [(pair, "all") for pair in pairs]
        parts = [
            (pair, category)
            for pair, each in shared.items()
            for category in each.a["category"].dropna().unique()
        ]
        for cells, what in ((whole, "all prompts"), (parts, "by category, exploratory")):
            sides = [(*cell, _means(shared[cell[0]], cell[1])) for cell in cells]
            sides = [side for side in sides if len(side[2])]
            means = ((side[2]["b"], side[2]["a"]) for side in sides)
            family = f"{metric.label}, {what}"
            for (pair, category, _), found in zip(sides, decide(means, family=family), strict=True):
                changes[pair].append(Change(category, metric, found))
    return tuple(
        Comparison(a, b, pair, tuple(changes[pair]), _moved(a, b, pair), _once(left_out[pair]))
        for pair in pairs
    )


def _shared(a: Results, b: Results, pair: tuple[str, str], metric: Metric) -> Shared:
    tables = (results.scores.loc[results.scores["metric"] == metric.name] for results in (a, b))
    one, two = (t.loc[t["method"] == name] for t, name in zip(tables, pair, strict=True))
    return shared_rows(one, two)


def _means(shared: Shared, category: str) -> pd.DataFrame:
    """Return the means a and b of each subject that both have; none where they share too little."""
    sides = {}
    for side, table in (("a", shared.a), ("b", shared.b)):
        own = table if category == "all" else table.loc[table["category"] == category]
        sides[side] = own.groupby("subject", observed=True)["value"].mean()
    means = pd.DataFrame(sides).dropna()
    return means.iloc[:0] if shared.problem else means


def _once(lines: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lines))


def _moved(a: Results, b: Results, pair: tuple[str, str]) -> tuple[Moved, ...]:
    shared = _shared(a, b, pair, a.metrics[0])
    means = _means(shared, "all")
    by = (means["b"] - means["a"]).abs().sort_values(ascending=False)
    moved = []
    for subject in map(str, by[by > 0].index[:MOVED]):
        sides = [
            table.loc[table["subject"] == subject].groupby("prompt", observed=True)["value"].mean()
            for table in (shared.a, shared.b)
        ]
        change = (sides[1] - sides[0]).abs().dropna()
        prompt = str(change.idxmax()) if len(change) else ""
        moved.append(Moved(subject, float(means["a"][subject]), float(means["b"][subject]), prompt))
    return tuple(moved)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the differences, then the subjects with the largest change."""
    banner = comparison.first.banner
    rows = []
    for change in comparison.changes:
        found, name = change.found, f"{change.metric.label}, {change.category}"
        style = "bold" if change.category == "all" else ""
        between = interval(found.interval.low, found.interval.high, signed=True)
        cells = [name, number(found.mean, signed=True), between]
        cells += [p_value(found.p_holm), str(found.comparisons), str(found.subjects)]
        rows.append([Text(cell, style=style) for cell in cells])
    header = ("metric, prompts", "difference", "95%", "p (Holm)", "family", "subjects")
    print_table(console, comparison.title, header, rows, banners=[banner] if banner else [])
    for line in comparison.partial:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in (*comparison.undecided, FAMILY):
        console.print(f"{line}.", style="dim", markup=False, highlight=False)
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
