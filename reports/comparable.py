"""Which runs can be compared: the settings that must be equal to rank them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dbbench.evaluation.leaderboard import Expectation, Leaderboard, rank_methods
from dbbench.evaluation.scores import REAL
from dbbench.reports.results import Results


def identity(results: Results) -> dict[str, Any]:
    """Return what a score depends on besides the method: images, prompts, encoders, metrics.

    Weights are compared by their fingerprint if it is recorded, else by their name.
    """
    suite = results.suite
    encoders = results.record.get("identities", {}).get("encoders", {})
    return {
        "source": suite.source,
        "backbone": f"{suite.backbone.path} at {suite.backbone.resolution} px",
        "prompts": suite.prompts.model_dump(mode="json"),
        "images for each prompt": suite.sample.images_per_prompt,
        "metrics": sorted(suite.metrics),
        "encoders": {
            role: encoders.get(role, {}).get("fingerprint", reference)
            for role, reference in sorted(suite.encoders.items())
        },
        "banner": suite.banner or "",
    }


def difference_between(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return the first difference between two identities in words; "" if they are equal."""
    for key in a.keys() | b.keys():
        if a.get(key) != b.get(key):
            return f"{key}: {_short(a.get(key))} and {_short(b.get(key))}"
    return ""


def grouped(runs: Sequence[Results]) -> list[list[Results]]:
    """Group the runs that can be ranked together; the order is kept."""
    groups: list[list[Results]] = []
    for run in runs:
        home = next(
            (g for g in groups if not difference_between(identity(g[0]), identity(run))), None
        )
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return groups


def names_of(runs: Sequence[Results]) -> list[str]:
    """Name each run by its folder, or by as much of its path as makes all names different."""
    parts = [run.out.absolute().parts for run in runs]
    for count in range(1, max(map(len, parts), default=0)):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.out) for run in runs]


def combined(runs: Sequence[Results]) -> Leaderboard:
    """Rank the methods of several comparable runs together, on all their subjects.

    If several runs have a method of the same name, the name of its run is added before it.
    """
    places = names_of(runs)
    names = [str(m) for run in runs for m in run.leaderboard.expectation.methods]
    twice = {name for name in names if names.count(name) > 1}
    tables, methods = [], []
    for position, run in enumerate(runs):
        renamed = {name: f"{places[position]}: {name}" for name in twice}
        table = run.scores if position == 0 else run.scores.loc[run.scores["method"] != REAL]
        tables.append(table.assign(method=table["method"].replace(renamed)))
        methods += [renamed.get(m, m) for m in run.leaderboard.expectation.methods]
    first = runs[0].leaderboard.expectation
    every = [run.leaderboard.expectation for run in runs]
    expectation = Expectation(
        suite=" + ".join(dict.fromkeys(e.suite for e in every)),
        banner=first.banner,
        subjects=tuple(dict.fromkeys(s for e in every for s in e.subjects)),
        methods=tuple(dict.fromkeys(methods)),
        seeds=tuple(dict.fromkeys(seed for e in every for seed in e.seeds)),
        images_per_run=first.images_per_run,
    )
    return rank_methods(pd.concat(tables, ignore_index=True), expectation, runs[0].metrics)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
