"""Verdicts, shares, intervals and agreement are what their definitions say."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from study_answers import rows

from dbbench.errors import UserError
from dbbench.study.analysis.agreement import krippendorff_alpha, metric_agreement, strengths
from dbbench.study.analysis.shares import (
    FIRST,
    SECOND,
    UNDECIDED,
    Votes,
    clustered_variance,
    majority_shares,
    raw_shares,
    verdicts,
    wilson,
)
from dbbench.study.analysis.simulate import Crowd, simulate_votes
from dbbench.study.analysis.summary import analyse

PAPER = {"subject": (0.68, 0.22, 0.10), "prompt": (0.81, 0.12, 0.07)}


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((3, 0, 0), FIRST),
        ((2, 1, 0), FIRST),
        ((0, 2, 1), SECOND),
        ((1, 0, 2), UNDECIDED),
        ((1, 1, 1), UNDECIDED),  # three-way tie
        ((2, 2, 0), UNDECIDED),
        ((2, 0, 2), UNDECIDED),
        ((2, 1, 1), FIRST),
        ((0, 1, 0), SECOND),
    ],
)
def test_majority_and_ties(counts: tuple[int, int, int], verdict: int) -> None:
    assert verdicts(np.array([counts])).tolist() == [verdict]


def test_shares_count_methods_and_not_sides() -> None:
    # Three pairs, b on the left: two for b, one for a by majority; 5, 3 and 1 of 9 answers.
    table = rows(
        *("r1 p1 left", "r2 p1 left", "r3 p1 right"),
        *("r1 p2 left", "r2 p2 left", "r3 p2 undecided"),
        *("r1 p3 right", "r2 p3 right", "r3 p3 left"),
    )
    found = analyse(table)
    (row,) = found.majority.to_dict("records")
    assert (row["first"], row["second"], row["pairs"], row["answers"]) == ("a", "b", 3, 9)
    assert (row["first_share"], row["second_share"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert row["undecided_share"] == 0
    (row,) = found.raw.to_dict("records")
    assert row["first_share"] == pytest.approx(3 / 9)
    assert row["second_share"] == pytest.approx(5 / 9)
    assert row["undecided_share"] == pytest.approx(1 / 9)
    assert row["difference"] == pytest.approx(-2 / 9)


def test_two_way_variance_is_that_of_its_formula() -> None:
    votes = simulate_votes(
        Crowd((0.6, 0.3, 0.1), 0.2), pairs=40, raters_per_pair=3, questions_per_rater=10, seed=1
    )
    values = (votes.choice == FIRST).astype(float)
    residual = values - values.mean()
    count = len(values)

    def one_way(groups: np.ndarray) -> float:
        sums = np.bincount(groups, weights=residual)
        number = len(sums)
        return float((sums**2).sum()) / count**2 * number / (number - 1) * (count - 1) / (count - 1)

    by_rater, by_pair = one_way(votes.rater), one_way(votes.pair)
    each = float((residual**2).sum()) / count**2 * count / (count - 1)
    expected = max(by_rater + by_pair - each, by_rater, by_pair)
    assert clustered_variance(values, votes) == pytest.approx(expected, rel=0.05)


def test_verdicts_that_share_raters_widen_the_interval() -> None:
    # The same 12 pairs, once judged by raters of their own and once by two camps of raters.
    counts = [FIRST] * 6 + [SECOND] * 6
    own = Votes(np.arange(12), np.arange(12), np.array(counts))
    camps = Votes(np.repeat([0, 1], 6), np.arange(12), np.array(counts))
    wide, narrow = majority_shares(camps).first, majority_shares(own).first
    assert wide.share == narrow.share == 0.5
    assert wide.high is not None
    assert narrow.high is not None
    assert wide.high > narrow.high + 0.1


def test_wilson_is_that_of_the_textbook() -> None:
    low, high = wilson(0.1, 20, 1.959964)
    assert (low, high) == (pytest.approx(0.02787, abs=1e-4), pytest.approx(0.30104, abs=1e-4))
    assert wilson(0.0, 10, 1.96)[0] == 0


def test_intervals_of_a_row_hold_together_wider_than_each_alone() -> None:
    votes = simulate_votes(
        Crowd((0.68, 0.22, 0.1)), pairs=100, raters_per_pair=3, questions_per_rater=25, seed=0
    )
    for shares in (majority_shares(votes), raw_shares(votes)):
        for share in (shares.first, shares.second, shares.undecided):
            assert share.low is not None
            assert share.high is not None
            assert share.low_all is not None
            assert share.high_all is not None
            assert 0 <= share.low_all < share.low < share.share < share.high < share.high_all <= 1


def test_one_rater_or_one_pair_has_no_interval() -> None:
    found = analyse(rows("r p1 left", "r p2 right")).raw.iloc[0]
    assert found["first_low"] is None
    assert analyse(rows("r1 p left", "r2 p left")).majority.iloc[0]["first_low"] is None


def test_expected_shares_are_those_of_enumeration() -> None:
    crowd = Crowd((0.7, 0.2, 0.1), error=0.3)
    raw, majority = crowd.expected(3)
    assert raw == pytest.approx(
        [0.7 * 0.7 + 0.3 * 0.15, 0.2 * 0.7 + 0.8 * 0.15, 0.1 * 0.7 + 0.9 * 0.15]
    )
    by_hand = 0.0
    for true, share in enumerate(crowd.shares):
        for ballot in product(range(3), repeat=3):
            chance = math.prod(0.7 if said == true else 0.15 for said in ballot)
            by_hand += share * chance * (ballot.count(0) >= 2)
    assert majority[0] == pytest.approx(by_hand)
    votes = simulate_votes(crowd, pairs=20_000, raters_per_pair=3, questions_per_rater=20, seed=0)
    assert raw_share(votes) == pytest.approx(raw, abs=0.01)
    assert np.bincount(verdicts(votes.counts), minlength=3) / 20_000 == pytest.approx(
        majority, abs=0.012
    )


def raw_share(votes: Votes) -> list[float]:
    return (np.bincount(votes.choice, minlength=3) / len(votes.choice)).tolist()


def test_no_simulated_rater_judges_a_pair_twice() -> None:
    votes = simulate_votes(
        Crowd((0.5, 0.4, 0.1)), pairs=60, raters_per_pair=3, questions_per_rater=25, seed=3
    )
    assert len(set(zip(votes.rater.tolist(), votes.pair.tolist(), strict=True))) == 180
    assert (votes.counts.sum(axis=1) == 3).all()
    assert np.bincount(votes.rater).max() == 25


@pytest.mark.parametrize("question", ["subject", "prompt"])
def test_the_papers_shares_are_recovered_within_the_interval(question: str) -> None:
    """1,800 answers; 25 studies here, 100 and more in benchmark/measurements/study/recovery.py."""
    base = Crowd((1.0, 0.0, 0.0), error=0.1)
    hits = {"majority": np.zeros(3), "raw": np.zeros(3)}
    for seed in range(25):
        for kind, analyse_votes in (("majority", majority_shares), ("raw", raw_shares)):
            crowd = base.with_expected(PAPER[question], 3, majority=kind == "majority")
            votes = simulate_votes(
                crowd, pairs=600, raters_per_pair=3, questions_per_rater=25, seed=seed
            )
            found = analyse_votes(votes)
            shares = (found.first, found.second, found.undecided)
            hits[kind] += [
                share.low is not None and share.high is not None and share.low <= true <= share.high
                for share, true in zip(shares, PAPER[question], strict=True)
            ]
    # 20 of 25 or fewer would happen once in 400 at 95%.
    assert min(hits["majority"].min(), hits["raw"].min()) > 20, hits


def test_a_share_that_is_wrong_is_not_recovered() -> None:
    crowd = Crowd((0.55, 0.35, 0.10), error=0.1)
    votes = simulate_votes(crowd, pairs=600, raters_per_pair=3, questions_per_rater=25, seed=0)
    share = majority_shares(votes).first
    assert share.high is not None
    assert share.high < 0.68


def test_alpha_is_one_at_full_agreement_and_that_of_the_textbook() -> None:
    assert krippendorff_alpha(np.array([[3, 0, 0], [0, 3, 0]] * 5)) == (1.0, 1.0, 1.0)
    assert krippendorff_alpha(np.array([[1, 0, 0], [0, 1, 0]])) is None  # nobody shares a pair
    # By the coincidence matrix: 4 units of 2 raters, 3 agreements; n = 8, o = 2, e = 5 * 3 * 2 / 7.
    found = krippendorff_alpha(np.array([[2, 0, 0], [2, 0, 0], [0, 2, 0], [1, 1, 0]]))
    assert found is not None
    assert found[0] == pytest.approx(1 - 2 / (2 * 5 * 3 / 7))
    chance = simulate_votes(
        Crowd((1.0, 0.0, 0.0), error=2 / 3),
        pairs=400,
        raters_per_pair=3,
        questions_per_rater=25,
        seed=0,
    )
    alpha = krippendorff_alpha(chance.counts)
    assert alpha is not None
    assert alpha[1] < 0 < alpha[2]


def scores_of(pairs: int, differences: list[float], metric: str = "dino") -> pd.DataFrame:
    table = []
    for number, difference in zip(range(pairs), differences, strict=True):
        table.append({"image": f"{number}a", "metric": metric, "value": 0.5 + difference})
        table.append({"image": f"{number}b", "metric": metric, "value": 0.5})
    return pd.DataFrame(table)


def test_metric_agreement_by_hand() -> None:
    counts = np.array([[3, 0, 0], [0, 3, 0], [2, 1, 0], [1, 1, 1]])
    images = [(f"{n}a", f"{n}b") for n in range(4)]
    scores = scores_of(4, [0.3, -0.2, -0.1, 0.4])
    row = metric_agreement(counts, images, scores, {"dino": True}).iloc[0]
    x, y = np.array([0.3, -0.2, -0.1, 0.4]), np.array([1, -1, 1 / 3, 0])
    both = np.corrcoef(np.concatenate([x, -x]), np.concatenate([y, -y]))[0, 1]
    assert row["pearson"] == pytest.approx(both)
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert (row["pairs"], row["decided"]) == (4, 3)
    turned = metric_agreement(counts, images, scores, {"dino": False}).iloc[0]
    assert turned["pearson"] == pytest.approx(-both)
    assert turned["accuracy"] == pytest.approx(1 / 3)
    # Which image is called the first changes nothing.
    swapped = counts[:, [1, 0, 2]]
    other = metric_agreement(swapped, [(b, a) for a, b in images], scores, {}).iloc[0]
    for name in ("pearson", "rank", "accuracy"):
        assert other[name] == pytest.approx(row[name])


def test_metric_without_values_for_enough_pairs_has_no_row() -> None:
    counts = np.array([[3, 0, 0], [0, 3, 0]])
    assert metric_agreement(counts, [("x", "y"), ("z", "w")], scores_of(1, [0.1]), {}).empty


TRUE_STRENGTHS = {"a": 0.8, "b": 0.0, "c": -0.8}


def contests(seed: int) -> tuple[list[str], list[str], Votes]:
    """400 answers for each two of three methods, by raters who follow Bradley and Terry."""
    rng = np.random.default_rng(seed)
    first, second, choice = [], [], []
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        chance = 1 / (1 + np.exp(TRUE_STRENGTHS[other] - TRUE_STRENGTHS[one]))
        first += [one] * 400
        second += [other] * 400
        choice += np.where(rng.random(400) < chance, FIRST, SECOND).tolist()
    count = len(choice)
    return first, second, Votes(np.arange(count) % 60, np.arange(count) // 4, np.array(choice))


def test_bradley_terry_recovers_strengths_within_its_intervals() -> None:
    hits = 0
    for seed in range(10):
        table, reason = strengths(*contests(seed))
        assert reason == ""
        assert table["method"].tolist() == ["a", "b", "c"]
        assert table["strength"].sum() == pytest.approx(0)
        for row in table.to_dict("records"):
            hits += row["low"] <= TRUE_STRENGTHS[row["method"]] <= row["high"]
    # 25 of 30 or fewer would happen once in 300 at 95%.
    assert hits > 25


def test_methods_that_never_lose_have_no_bradley_terry_strength() -> None:
    first, second, votes = contests(0)
    never = Votes(votes.rater, votes.pair, np.full(len(first), FIRST))
    table, reason = strengths(first, second, never)
    assert table.empty
    assert "no Bradley-Terry strengths" in reason


def test_attention_checks_count_and_can_leave_raters_out() -> None:
    table = rows(
        *("r1 p1 left", "r1 p2 left", "r1 c left left"),
        *("r2 p1 left", "r2 p2 left", "r2 c left left"),
        *("r3 p1 right", "r3 p2 right", "r3 c right left"),
    )
    found = analyse(table)
    assert found.checks.set_index("rater")["failed"].to_dict() == {"r1": 0, "r2": 0, "r3": 1}
    assert found.raw.iloc[0]["answers"] == 6
    attentive = analyse(table, only_attentive=True)
    assert attentive.raw.iloc[0]["answers"] == 4
    assert "1 raters who failed an attention check are left out" in attentive.notes


def test_nothing_to_analyse_is_one_line() -> None:
    with pytest.raises(UserError, match="no answers yet"):
        analyse(rows("r1 c left left"))
