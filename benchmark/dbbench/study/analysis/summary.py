"""Answers -> the results of a study as tables of numbers (`dbbench study results`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from dbbench.errors import UserError
from dbbench.study.analysis.agreement import krippendorff_alpha, metric_agreement, strengths
from dbbench.study.analysis.shares import (
    ANSWERS,
    FIRST,
    SECOND,
    UNDECIDED,
    Votes,
    majority_shares,
    raw_shares,
)

SIMULATED = "simulated raters: these are not answers of people"


@dataclass(frozen=True)
class Analysis:
    """The results of a study.

    `majority`, `raw`: one row per two methods, with the three shares and their intervals.
    `agreement`: Krippendorff's alpha. `strengths`: Bradley-Terry, for more than two methods.
    `metrics`: automatic metrics against people. `checks`: one row per rater. `times`: seconds per
    question. `notes`: missing results and the reasons.
    """

    question: str
    banners: tuple[str, ...]
    majority: pd.DataFrame
    raw: pd.DataFrame
    agreement: pd.DataFrame
    strengths: pd.DataFrame
    metrics: pd.DataFrame
    checks: pd.DataFrame
    times: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def simulated(self) -> bool:
        """Whether some of the answers come from simulated raters."""
        return SIMULATED in self.banners


def analyse(
    answers: pd.DataFrame,
    *,
    scores: pd.DataFrame | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    banner: str | None = None,
    raters_per_pair: int | None = None,
    only_attentive: bool = False,
    seed: int = 0,
) -> Analysis:
    """Analyse a table of answers (see `answers.COLUMNS`). `scores` has image, metric, value.

    `only_attentive` leaves out the raters who failed an attention check. Raises UserError if there
    are no answers.
    """
    is_check = answers["check"] != ""
    checks = _checks(answers.loc[is_check], answers["rater"])
    notes = []
    failed = checks.loc[checks["failed"] > 0, "rater"]
    if only_attentive:
        answers = answers.loc[~answers["rater"].isin(failed)]
        notes.append(f"{len(failed)} raters who failed an attention check are left out")
    answers = _ordered(answers.loc[answers["check"] == ""])
    if answers.empty:
        raise UserError("there are no answers yet; dbbench study serve collects them")
    votes = _votes(answers)
    pairs = answers.drop_duplicates("pair")
    if raters_per_pair is not None:
        counts = answers.groupby("pair").size()
        if fewer := int((counts < raters_per_pair).sum()):
            notes.append(f"{fewer} pairs have fewer than {raters_per_pair} raters so far")
    strength, reason = strengths(answers["first"].tolist(), answers["second"].tolist(), votes)
    if reason:
        notes.append(reason)
    if scores is None or scores.empty:
        notes.append("no automatic scores are stored, so no metric is compared with people")
        scores = pd.DataFrame(columns=["image", "metric", "value"])
    metrics = metric_agreement(
        votes.counts,
        list(zip(pairs["first_image"], pairs["second_image"], strict=True)),
        scores,
        higher_is_better or {},
        seed=seed,
    )
    simulated = bool((answers["origin"] == "simulated").any())
    return Analysis(
        question=str(answers["question"].iloc[0]),
        banners=tuple(filter(None, (banner, SIMULATED if simulated else None))),
        majority=_share_table(answers, majority=True),
        raw=_share_table(answers, majority=False),
        agreement=_alpha(votes, seed),
        strengths=strength,
        metrics=metrics,
        checks=checks,
        times=_times(answers["seconds"]),
        notes=tuple(notes),
    )


def _ordered(answers: pd.DataFrame) -> pd.DataFrame:
    """Put the two methods in alphabetical order; code the choice by method, not by side."""
    left, right = answers["left_method"], answers["right_method"]
    swap = (left > right).to_numpy()
    sides = answers["choice"].map({"left": FIRST, "right": SECOND, "undecided": UNDECIDED})
    side = sides.to_numpy(dtype=np.int64)
    table = answers.assign(
        first=np.where(swap, right, left),
        second=np.where(swap, left, right),
        first_image=np.where(swap, answers["right_image"], answers["left_image"]),
        second_image=np.where(swap, answers["left_image"], answers["right_image"]),
        code=np.where(swap & (side != UNDECIDED), 1 - side, side),
    )
    # With a new index, pairs are numbered from 0 by first appearance, as in `_votes`.
    return table.reset_index(drop=True)


def _votes(answers: pd.DataFrame) -> Votes:
    return Votes(
        rater=pd.factorize(answers["rater"])[0].astype(np.int64),
        pair=pd.factorize(answers["pair"])[0].astype(np.int64),
        choice=answers["code"].to_numpy(dtype=np.int64),
    )


def _share_table(answers: pd.DataFrame, *, majority: bool) -> pd.DataFrame:
    rows = []
    for (first, second), group in answers.groupby(["first", "second"]):
        votes = _votes(group)
        shares = majority_shares(votes) if majority else raw_shares(votes)
        row: dict[str, object] = {
            "first": first,
            "second": second,
            "pairs": int(votes.pair.max()) + 1,
            "answers": len(group),
            "raters": int(votes.rater.max()) + 1,
        }
        for name in ANSWERS:
            own = asdict(getattr(shares, name))
            row |= {f"{name}_{column}": value for column, value in own.items()}
        for name in ("difference", "difference_low", "difference_high"):
            row[name] = getattr(shares, name)
        rows.append(row)
    return pd.DataFrame(rows)


def _alpha(votes: Votes, seed: int) -> pd.DataFrame:
    counts = votes.counts
    shared = int((counts.sum(axis=1) > 1).sum())
    found = krippendorff_alpha(counts, seed=seed)
    alpha, low, high = (None, None, None) if found is None else found
    return pd.DataFrame([{"alpha": alpha, "low": low, "high": high, "pairs": shared}])


def _checks(given: pd.DataFrame, raters: pd.Series[str]) -> pd.DataFrame:
    """Return one row per rater: the number of attention checks, and of failed ones."""
    table = pd.DataFrame({"rater": raters.drop_duplicates().to_numpy()})
    wrong = given["choice"] != given["check"]
    table["checks"] = table["rater"].map(given.groupby("rater").size()).fillna(0).astype(int)
    table["failed"] = table["rater"].map(wrong.groupby(given["rater"]).sum()).fillna(0).astype(int)
    return table


def _times(seconds: pd.Series[float]) -> pd.DataFrame:
    known = seconds.dropna().astype(float)
    names = {"p05": 0.05, "quartile": 0.25, "median": 0.5, "three_quarters": 0.75, "p95": 0.95}
    row: dict[str, float | int | None] = {"answers": len(known)}
    for name, level in names.items():
        row[name] = float(known.quantile(level)) if len(known) else None
    return pd.DataFrame([row])
