"""Run: one method x one subject x one seed; `plan_runs` lists those of a suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import override

from dbbench.suites.suite import Suite


@dataclass(frozen=True, order=True)
class Run:
    """One method x one subject x one seed, by name."""

    method: str
    subject: str
    seed: int

    @override
    def __str__(self) -> str:
        return f"{self.method}/{self.subject}/{self.seed}"


def plan_runs(
    suite: Suite,
    subjects: Iterable[str],
    methods: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
) -> tuple[Run, ...]:
    """Return the runs in the order they are done: seed, then subject, then method.

    `methods` and `seeds` default to the suite's own; doubles are dropped.
    """
    chosen_methods = tuple(dict.fromkeys(suite.methods if methods is None else methods))
    chosen_seeds = tuple(dict.fromkeys(suite.seeds if seeds is None else seeds))
    chosen_subjects = tuple(dict.fromkeys(subjects))
    return tuple(
        Run(method, subject, seed)
        for seed in chosen_seeds
        for subject in chosen_subjects
        for method in chosen_methods
    )
