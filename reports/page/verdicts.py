"""A paper's table with measured and published numbers, and a verdict on each finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dbbench.evaluation import decision
from dbbench.evaluation.decision import Difference
from dbbench.evaluation.metric import Metric
from dbbench.evaluation.pairing import shared_rows
from dbbench.reports.results import Results
from dbbench.suites.paper_table import Claim

Outcome = Literal["reproduced", "not reproduced", "not decidable", "not run"]


@dataclass(frozen=True)
class Verdict:
    """Whether a run reproduces a finding of a paper.

    The 95% interval of the paired difference decides. If it is entirely on the claimed side of
    zero, the finding is reproduced; if it is entirely on the other side, it is not. If it contains
    zero, the number of subjects is too small to decide. "Not below" is reproduced if the interval
    is above minus the claim's margin. A finding was named before the run, so it is a family of its
    own (`evaluation/decision.py`).
    """

    claim: Claim
    outcome: Outcome
    difference: Difference | None

    simulated = False

    @property
    def text(self) -> str:
        """The finding as a sentence without the full stop."""
        return self.claim.text

    @property
    def numbers(self) -> str:
        """Difference, interval and subjects in words; "" if there is no difference."""
        found = self.difference
        if found is None or not found.subjects:
            return ""
        text = f"{found.mean:+.3f}"
        if found.interval.low is not None and found.interval.high is not None:
            text += f", 95% {found.interval.low:+.3f} to {found.interval.high:+.3f}"
        return f"{text}, {found.subjects} subject{'s' if found.subjects != 1 else ''}"

    @property
    def sentence(self) -> str:
        """The finding, its verdict and its numbers."""
        outcome: str = self.outcome
        if outcome == "not decidable":
            outcome = "not decidable with this many subjects"
        numbers = f" ({self.numbers})" if self.numbers else ""
        return f"{self.claim.text}: {outcome}{numbers}."


@dataclass(frozen=True)
class Cell:
    """One number of the table; None for what was not measured or not published."""

    metric: Metric
    found: float | None
    low: float | None
    high: float | None
    published: float | None


@dataclass(frozen=True)
class Row:
    """One row of the table; `label` is the paper's name for the method."""

    method: str
    label: str
    note: str
    cells: tuple[Cell, ...]


def paper_rows(results: Results) -> tuple[Row, ...]:
    """Return the rows in the suite's order, those of the paper first; none without a table."""
    table = results.suite.table
    if table is None:
        return ()
    ranking = results.leaderboard.ranking.set_index("method")
    published = {row.method: row.scores for row in table.published}
    methods = list(dict.fromkeys([*published, *results.suite.methods]))
    return tuple(
        Row(
            method,
            table.labels.get(method, method),
            str(ranking.loc[method, "note"]) if method in ranking.index else "not run",
            tuple(
                _cell(ranking, method, metric, published.get(method, {}).get(metric.name))
                for metric in results.metrics
            ),
        )
        for method in methods
    )


def judge(results: Results) -> tuple[Verdict, ...]:
    """Return a verdict for each finding that the suite's table states."""
    table = results.suite.table
    return () if table is None else tuple(_judge(results, claim) for claim in table.claims)


def _judge(results: Results, claim: Claim) -> Verdict:
    own = results.scores.loc[results.scores["metric"] == claim.metric]
    sides = [own.loc[own["method"] == name] for name in (claim.first, claim.second)]
    if any(side.empty for side in sides):
        return Verdict(claim, "not run", None)
    shared = shared_rows(*sides)
    means = pd.concat(
        [side.groupby("subject", observed=True)["value"].mean() for side in (shared.a, shared.b)],
        axis=1,
        join="inner",
    ).to_numpy(dtype=float)
    if not len(means):
        return Verdict(claim, "not run", None)
    (found,) = decision.decide([(means[:, 0], means[:, 1])], family=claim.text)
    return Verdict(claim, decide(claim, found), found)


def decide(claim: Claim, found: Difference) -> Outcome:
    """Return the outcome of a claim from the interval of first minus second."""
    low, high = found.interval.low, found.interval.high
    if low is None or high is None:
        return "not decidable"
    if claim.relation in {"below", "not above"}:
        low, high = -high, -low
    if high < 0:
        return "not reproduced"
    bound = -claim.margin if claim.relation.startswith("not") else 0.0
    return "reproduced" if low > bound else "not decidable"


def _cell(ranking: pd.DataFrame, method: str, metric: Metric, published: float | None) -> Cell:
    names = [f"{metric.name}{end}" for end in ("", "_low", "_high")]
    if method not in ranking.index:
        return Cell(metric, None, None, None, published)
    values = ranking.loc[method, names].to_numpy(dtype=float)
    found, low, high = (None if np.isnan(value) else float(value) for value in values)
    return Cell(metric, found, low, high, published)
