"""The results in an output folder, read once for the tables and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import ValidationError

from dbbench.data.dataset import Dataset, load_dataset
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.evaluation.leaderboard import Expectation, Leaderboard, rank_methods
from dbbench.evaluation.metric import Metric, load_metric
from dbbench.evaluation.scores import REAL, read_scores
from dbbench.files import fingerprint, hash_file, read_json
from dbbench.storage.record import Record
from dbbench.storage.run_folder import SCORES, SCORES_MANIFEST
from dbbench.suites.suite import Suite
from dbbench.versions import versions

RANKING_VERSION = 2
"""Increase when the same scores give another leaderboard."""
RANKED = "leaderboard.json"
BOARD = ("leaderboard", "leaderboard-subjects", "leaderboard-differences")
"""The files of a leaderboard's three tables."""


@dataclass(frozen=True)
class Results:
    """A scored output folder. `record` is suite.json, `scores` has one row per image and metric."""

    out: Path
    record: Mapping[str, Any]
    suite: Suite
    dataset: Dataset
    scores: pd.DataFrame
    leaderboard: Leaderboard
    key: str
    """Hash of everything that the leaderboard's tables depend on."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The suite's metrics in its order."""
        return self.leaderboard.metrics

    @property
    def banner(self) -> str | None:
        """The warning that every table and page of this folder must show; None if there is none."""
        return self.suite.full_banner

    @property
    def prompts(self) -> dict[str, PromptTemplate]:
        """The suite's prompts by id; those for live subjects first."""
        subjects = sorted(self.dataset.subjects, key=lambda subject: not subject.live)
        return {p.id: p for s in subjects for p in self.suite.prompts.of(self.dataset, s)}

    @property
    def rows(self) -> tuple[str, ...]:
        """Every method of the leaderboard and the oracle, as the suite orders them."""
        found = [str(method) for method in self.leaderboard.ranking["method"]]
        return tuple(sorted(found, key=lambda m: (m != REAL, _place(self.suite, m))))

    @property
    def missing(self) -> str:
        """What an unfinished run lacks, such as "dreambooth: 3/5 subjects"; "" if complete."""
        ranking = self.leaderboard.ranking
        lacking = ranking.loc[ranking["note"] != "", ["method", "note"]].to_numpy()
        return ", ".join(f"{method}: {note}" for method, note in lacking)

    def label(self, method: str) -> str:
        """Return the method's name in the paper's table; its own name if it has none there."""
        labels = {REAL: "Real images"} | (self.suite.table.labels if self.suite.table else {})
        return labels.get(method, method)

    def means_by(self, column: Literal["subject", "prompt"]) -> pd.DataFrame:
        """Return the mean of each (metric, method) by subject or by prompt, in the suite's order.

        The mean by prompt is the mean over subjects of the mean over images.
        """
        expectation = self.leaderboard.expectation
        drawn = self.scores.loc[
            self.scores["subject"].isin(expectation.subjects)
            & (self.scores["seed"].isin(expectation.seeds) | (self.scores["method"] == REAL))
        ]
        if column == "prompt":
            drawn = drawn.loc[drawn["prompt"].notna()]
        keys = list(dict.fromkeys([column, "subject", "metric", "method"]))
        means = drawn.groupby(keys, observed=True, sort=False)["value"].mean().reset_index()
        if column == "prompt":
            by_prompt = means.groupby(["prompt", "metric", "method"], sort=False)["value"]
            means = by_prompt.mean().reset_index()
        table = means.pivot(index=column, columns=["metric", "method"], values="value")
        order = [
            (metric.name, method)
            for metric in self.metrics
            for method in self.rows
            if (metric.name, method) in table.columns
        ]
        known = expectation.subjects if column == "subject" else self.prompts
        others = [name for name in table.index if name not in known]
        rows = [name for name in known if column == "subject" or name in table.index]
        return table.reindex(index=[*rows, *others])[order]

    def published(self) -> pd.DataFrame:
        """Return the published rows; none if a banner marks this run as not comparable."""
        with files("dbbench.reports").joinpath("published.csv").open(encoding="utf-8") as stream:
            table = pd.read_csv(stream, keep_default_na=True)
        for metric in self.metrics:
            column = metric.name.replace("-", "_")
            table[metric.name] = table.get(column, pd.Series(dtype="float64"))
        return table.iloc[0:0] if self.banner else table


def load_results(out: Path) -> Results:
    """Return the results in `out`.

    Raises UserError if it has no scores, or if this version cannot read its suite.
    """
    path = out / SCORES
    record = Record(out).read()
    if not record:
        raise UserError(f"{out} holds no results; make some with: dbbench run")
    stamp = tuple(p.stat().st_mtime_ns if p.is_file() else 0 for p in (path, out / "suite.json"))
    return _load(out, stamp)


@lru_cache(maxsize=8)
def _load(out: Path, stamp: tuple[int, ...]) -> Results:
    """Read and rank; cached as long as the files are unchanged (`stamp`)."""
    record = Record(out).read()
    try:
        suite = Suite.model_validate(record["suite"])
        dataset = load_dataset(suite.source)
        selection = {key: tuple(record["selection"][key]) for key in ("subjects", "methods")}
        seeds = tuple(int(seed) for seed in record["selection"]["seeds"])
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"{out / 'suite.json'} was written by another version of dbbench ({reason});"
            " run again with this version, or use that version for the report"
        ) from None
    expectation = Expectation(
        suite=suite.name,
        banner=suite.full_banner,
        subjects=selection["subjects"],
        methods=selection["methods"],
        seeds=seeds,
        images_per_run=_images_per_run(suite, dataset),
    )
    scores = read_scores(_whole(out / SCORES))
    metrics = [load_metric(name) for name in suite.metrics]
    key = _ranking_key(out, expectation, suite.metrics)
    board = _remembered(out, key, expectation, metrics)
    if board is None:
        board = rank_methods(scores, expectation, metrics)
    return Results(out, record, suite, dataset, scores, board, key)


def _whole(path: Path) -> Path:
    """Return the path of the scores. Raises UserError if the file was changed."""
    try:
        listed = read_json(path.with_name(SCORES_MANIFEST)).get("files", [])
        known = {str(entry["name"]): str(entry["sha256"]) for entry in listed}
    except (TypeError, KeyError):
        known = {}
    if path.is_file() and known.get(path.name, hash_file(path)) != hash_file(path):
        raise UserError(f"{path} has changed since it was written; rerun the same dbbench run")
    return path


def _ranking_key(out: Path, expectation: Expectation, metrics: Sequence[str]) -> str:
    """Return a hash of everything that the leaderboard's tables depend on."""
    code = [RANKING_VERSION, versions()["dbbench"]]
    return fingerprint([code, hash_file(out / SCORES), asdict(expectation), list(metrics)])


def _remembered(
    out: Path, key: str, expectation: Expectation, metrics: Sequence[Metric]
) -> Leaderboard | None:
    """Return the leaderboard of an earlier report; None if it was made from other data.

    Computing intervals and tests takes seconds for a full run, and so does importing the libraries.
    """
    record = read_json(out / RANKED)
    if record.get("key") != key:
        return None
    try:
        paths = [out / f"{name}.parquet" for name in BOARD]
        if record.get("files") != [hash_file(path) for path in paths]:
            return None
        tables = [pd.read_parquet(path) for path in paths]
    except (OSError, ValueError):
        return None
    return Leaderboard(expectation, tuple(metrics), *tables)


def columns_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the (metric, method) of each column of a table of `Results.means_by`."""
    return [(str(metric), str(method)) for metric, method in table.columns.to_frame().to_numpy()]


def _place(suite: Suite, method: str) -> int:
    order = list(suite.methods)
    return order.index(method) if method in order else len(order)


def _images_per_run(suite: Suite, dataset: Dataset) -> int | None:
    """Return how many images of its prompts each run has; None if it depends on the subject."""
    counts = {len(suite.prompts.of(dataset, subject)) for subject in dataset.subjects}
    return counts.pop() * suite.sample.images_per_prompt if len(counts) == 1 else None
