"""Analyse a study's folder or a file of answers (`dbbench study results`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dbbench.errors import UserError
from dbbench.study.analysis.summary import Analysis, analyse
from dbbench.study.answers.answers import answer_table, file_table
from dbbench.study.answers.store import open_store
from dbbench.study.design.study import SCORES_FILE, SIMULATED_FILE


def analyse_folder(
    folder: Path, url: str | None = None, *, only_attentive: bool = False
) -> Analysis:
    """Analyse the answers to a study. Raises UserError if there are none."""
    store = open_store(folder, url)
    try:
        study, answers = store.study, answer_table(store.study, store.answers())
    finally:
        store.database.close()
    path = folder / SCORES_FILE
    scores = pd.read_parquet(path) if path.is_file() else None
    return analyse(
        answers,
        scores=scores,
        higher_is_better={} if scores is None else _directions(scores["metric"].unique()),
        banner=study.banner,
        raters_per_pair=study.raters_per_pair,
        only_attentive=only_attentive,
    )


def analyse_file(path: Path, *, only_attentive: bool = False) -> Analysis:
    """Analyse a file of answers without a study's folder."""
    answers = file_table(path)
    banner = "; ".join(sorted(set(answers["banner"]) - {""})) or None
    return analyse(answers, banner=banner, only_attentive=only_attentive)


def simulated_url(folder: Path) -> str:
    """Return the URL of the database that holds a study's simulated answers."""
    return f"sqlite:///{(folder / SIMULATED_FILE).resolve()}"


def _directions(metrics: Iterable[str]) -> dict[str, bool]:
    """Return for each metric whether higher is better; True for metrics that are not installed."""
    from dbbench.evaluation.metric import load_metric

    directions = {}
    for name in metrics:
        try:
            directions[name] = load_metric(name).higher_is_better
        except UserError:
            directions[name] = True
    return directions
