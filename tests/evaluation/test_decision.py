"""One rule decides: interval and p-value never disagree, and too few subjects have neither."""

import numpy as np
import pytest

from dbbench.evaluation.decision import (
    LEVEL,
    Difference,
    decide,
    detectable_difference,
    subjects_needed,
    undecidable,
)


def one(a, b) -> Difference:
    return decide([(a, b)], family="one")[0]


def test_p_value_of_few_subjects_is_exact() -> None:
    # Six positive differences: 2 of the 2^6 sign flips are as extreme.
    found = one([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0] * 6)
    assert found.p == found.p_holm == pytest.approx(2 / 64)
    assert found.interval.low == 1.0
    assert found.interval.high == 6.0
    assert found.decided


def test_p_value_is_that_of_every_flip_counted_one_by_one() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0.3, 1.0, size=9)
    signs = 1 - 2 * ((np.arange(2**9)[:, None] >> np.arange(9)) & 1)
    means = signs @ values
    tail = min(np.mean(means >= values.sum() - 1e-9), np.mean(means <= values.sum() + 1e-9))
    assert one(values, np.zeros(9)).p == pytest.approx(2 * tail)


@pytest.mark.parametrize("subjects", [6, 9, 13, 30])
@pytest.mark.parametrize("comparisons", [1, 3])
def test_the_interval_excludes_zero_exactly_where_the_difference_is_decided(
    subjects: int, comparisons: int
) -> None:
    rng = np.random.default_rng(subjects)
    outcomes = set()
    for _ in range(40):
        shift = rng.uniform(-1.5, 1.5, size=(comparisons, 1))
        pairs = [
            (values, np.zeros(subjects)) for values in rng.normal(shift, 1, (comparisons, subjects))
        ]
        for found in decide(pairs, family="several"):
            if found.p is None:
                assert subjects < subjects_needed(comparisons)
                assert found.interval.low is None
                continue
            assert found.interval.low is not None
            assert found.interval.high is not None
            assert found.decided == (found.interval.low > 0 or found.interval.high < 0)
            outcomes.add(found.decided)
    assert outcomes == ({True, False} if subjects >= subjects_needed(comparisons) else set())


def test_the_interval_covers_the_truth_at_least_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    found = [one(rng.normal(0.2, 1.0, size=10), np.zeros(10)).interval for _ in range(800)]
    covered = np.mean([each.low <= 0.2 <= each.high for each in found])
    # At a true 95% less than 0.925 of 800 happens once in 1,000.
    assert 0.925 < covered < 0.98


def test_no_difference_is_seldom_decided_in_a_family_of_three() -> None:
    rng = np.random.default_rng(6)
    false = sum(
        any(d.decided for d in decide(list(rng.normal(size=(3, 2, 8))), family="three"))
        for _ in range(400)
    )
    # 5% of 400 is 20; at a true 5% more than 36 happens less than once in 1,000.
    assert false <= 36


@pytest.mark.parametrize(("comparisons", "needed"), [(1, 6), (3, 7), (9, 9), (45, 11)])
def test_as_many_subjects_are_needed_as_the_smallest_p_value_asks_for(
    comparisons: int, needed: int
) -> None:
    assert subjects_needed(comparisons) == needed
    for subjects, can in ((needed - 1, False), (needed, True)):
        pairs = [(np.ones(subjects) + np.arange(subjects), np.zeros(subjects))] * comparisons
        found = decide(pairs, family="all")
        assert all(each.decided == can for each in found)
        assert all((each.p is not None) == can for each in found)
        assert (2 * comparisons / 2**subjects < LEVEL) == can
        assert bool(undecidable(subjects, comparisons)) != can


def test_a_family_that_cannot_be_decided_says_how_many_subjects_can() -> None:
    (found, *_) = decide([(np.arange(1.0, 6.0), np.zeros(5))] * 3, family="all")
    assert found.mean == 3.0
    assert (found.p, found.p_holm, found.comparisons) == (None, None, 3)
    assert found.interval.reason == "5 subjects cannot decide 3 comparisons; 7 subjects can"
    assert (
        one([0.7], [0.6]).interval.reason == "1 subject cannot decide 1 comparison; 6 subjects can"
    )


def test_holm_steps_down_and_never_up() -> None:
    rng = np.random.default_rng(7)
    pairs = [(rng.normal(shift, 1.0, size=12), np.zeros(12)) for shift in (2.0, 1.2, 0.5, 0.0)]
    found = decide(pairs, family="four")
    by_p = sorted(found, key=lambda each: each.p)
    expected, highest = [], 0.0
    for rank, each in enumerate(by_p):
        highest = max(highest, min(1.0, (4 - rank) * each.p))
        expected.append(highest)
    assert [each.p_holm for each in by_p] == pytest.approx(expected)
    assert {each.comparisons for each in found} == {4}


def test_no_common_subject_is_no_difference_and_no_comparison() -> None:
    empty, other = decide([([], []), (np.arange(1.0, 7.0), np.zeros(6))], family="two")
    assert np.isnan(empty.mean)
    assert (empty.p, empty.subjects, empty.interval.reason) == (None, 0, "no subject in common")
    assert other.comparisons == 1


def test_equal_methods_are_never_told_apart() -> None:
    found = one(np.full(8, 0.3), np.full(8, 0.3))
    assert (found.p, found.decided) == (1.0, False)


def test_what_differs_by_rounding_alone_is_not_decided() -> None:
    found = one(np.full(8, 0.1) + 1e-16 * np.arange(1, 9), np.full(8, 0.1))
    assert (found.p, found.interval.low, found.interval.high) == (1.0, 0.0, 0.0)


def test_a_large_family_is_decided_where_all_subjects_agree() -> None:
    pairs = [(np.arange(1.0, 31.0), np.zeros(30))] * 300
    for found in decide(pairs, family="24 methods and more"):
        assert found.decided
        assert found.interval.low is not None
        assert found.interval.high is not None
        assert 0 < found.interval.low < found.mean < found.interval.high


def test_pairing_sees_a_small_difference_that_lies_within_the_spread_of_subjects() -> None:
    rng = np.random.default_rng(5)
    subjects = rng.normal(0.6, 0.15, size=30)
    a = subjects + 0.03 + rng.normal(0, 0.02, size=30)
    b = subjects + rng.normal(0, 0.02, size=30)
    found = one(a, b)
    assert found.mean == pytest.approx(np.mean(a - b))
    assert found.p is not None
    assert found.p < 0.001


def test_unpaired_or_missing_values_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        one([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="finite"):
        one([0.1, float("nan")], [0.1, 0.2])


@pytest.mark.parametrize(
    ("subjects", "comparisons"), [(6, 1), (7, 3), (10, 1), (13, 9), (21, 1), (30, 10)]
)
def test_a_detectable_difference_is_decided_four_times_in_five(
    subjects: int, comparisons: int
) -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=subjects)
    sample = (noise - noise.mean()) / noise.std(ddof=1)
    needed = detectable_difference(sample, comparisons=comparisons)
    assert needed is not None
    zeros = np.zeros(subjects)
    p_values = [one(rng.normal(needed, 1.0, size=subjects), zeros).p for _ in range(400)]
    # 400 draws: a true 0.80 strays by more than 0.07 less than once in 1,000 times.
    assert np.mean(np.array(p_values) < LEVEL / comparisons) == pytest.approx(0.8, abs=0.07)


def test_what_cannot_be_decided_has_no_detectable_difference() -> None:
    assert detectable_difference([0.1, 0.2, 0.3, 0.4, 0.5]) is None
    assert detectable_difference(np.arange(6.0), comparisons=3) is None
    assert detectable_difference([0.2] * 8) == 0.0
