"""Intervals cover what they promise, tests keep their level, and too few subjects are told."""

import numpy as np
import pytest
from scipy import stats

from dbbench.evaluation.statistics import (
    MIN_SUBJECTS,
    detectable_difference,
    holm,
    paired_difference,
    subject_interval,
)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    trials = 120
    for trial in range(trials):
        interval = subject_interval(rng.normal(0.6, 0.1, size=12), seed=trial)
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.6 <= interval.high
    # 95% of 120 is 114; at a true 95% fewer than 105 happens once in 10,000.
    assert covered >= 105


def test_images_of_one_subject_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    by_subject = rng.normal(0.6, 0.1, size=10)
    images = by_subject[:, None] + rng.normal(0, 0.01, size=(10, 100))
    interval = subject_interval(images.mean(axis=1))
    assert interval.low is not None
    assert interval.high is not None
    naive = 2 * 1.96 * images.std() / np.sqrt(images.size)
    assert interval.high - interval.low > 5 * naive


@pytest.mark.parametrize("count", range(MIN_SUBJECTS))
def test_too_few_subjects_have_no_interval_and_say_why(count: int) -> None:
    interval = subject_interval([0.5, 0.6, 0.7, 0.8][:count])
    assert interval.low is None
    assert interval.high is None
    assert f"here {count} subject" in interval.reason


def test_equal_values_give_an_interval_of_no_width() -> None:
    interval = subject_interval([0.5] * 8)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=9)
    assert subject_interval(values, seed=4) == subject_interval(values, seed=4)
    assert subject_interval(values, seed=4) != subject_interval(values, seed=5)


def test_pairing_sees_a_small_difference_that_intervals_hide() -> None:
    rng = np.random.default_rng(5)
    subjects = rng.normal(0.6, 0.15, size=30)
    a = subjects + 0.03 + rng.normal(0, 0.02, size=30)
    b = subjects + rng.normal(0, 0.02, size=30)
    result = paired_difference(a, b)
    assert result.mean == pytest.approx(np.mean(a - b))
    assert result.interval.low is not None
    assert result.interval.low > 0
    assert result.p is not None
    assert result.p < 0.001
    first, second = subject_interval(a), subject_interval(b)
    assert first.low is not None
    assert second.high is not None
    assert first.low < second.high


def test_p_value_of_few_subjects_is_exact() -> None:
    # Six positive differences: 2 of the 2^6 sign flips are as extreme.
    result = paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0] * 6)
    assert result.p == pytest.approx(2 / 64)


def test_permutation_test_keeps_its_level() -> None:
    rng = np.random.default_rng(6)
    rejected = 0
    for trial in range(150):
        a, b = rng.normal(size=(2, 8))
        p = paired_difference(a, b, seed=trial).p
        assert p is not None
        rejected += p < 0.05
    # 5% of 150 is 7.5; at a true 5% more than 18 happens less than once in 1,000.
    assert rejected <= 18


def test_one_subject_has_a_difference_but_no_p_value() -> None:
    result = paired_difference([0.7], [0.6])
    assert result.mean == pytest.approx(0.1)
    assert result.p is None
    assert result.interval.low is None
    assert "here 1 subject" in result.interval.reason


def test_two_subjects_never_show_a_significant_difference() -> None:
    assert paired_difference([0.9, 0.8], [0.1, 0.2]).p == pytest.approx(0.5)


def test_no_common_subject_is_no_difference() -> None:
    result = paired_difference([], [])
    assert result.p is None
    assert np.isnan(result.mean)
    assert result.subjects == 0


def test_unpaired_or_missing_values_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        paired_difference([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="finite"):
        subject_interval([0.1, float("nan")])


def test_holm_steps_down_and_leaves_missing_values_missing() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
        None,
    ]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_weights_count_as_so_many_images() -> None:
    values = np.random.default_rng(8).normal(0.5, 0.1, size=10)
    assert subject_interval(values, weights=np.full(10, 4.0)) == subject_interval(values)
    heavy = subject_interval(values, weights=np.where(values == values.max(), 90.0, 1.0))
    assert heavy.high is not None
    assert heavy.high == pytest.approx(values.max(), abs=0.01)
    with pytest.raises(ValueError, match="weight"):
        subject_interval(values, weights=np.zeros(10))


@pytest.mark.parametrize(("count", "comparisons"), [(6, 1), (30, 1), (30, 10)])
def test_detectable_difference_is_found_four_times_in_five(count: int, comparisons: int) -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=count)
    sample = (noise - noise.mean()) / noise.std(ddof=1)
    needed = detectable_difference(sample, comparisons=comparisons)
    assert needed is not None
    draws = rng.normal(needed, 1.0, size=(4000, count))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05 / comparisons
    # 4,000 draws: a true 0.80 strays by more than 0.025 once in 10,000 times.
    assert found.mean() == pytest.approx(0.8, abs=0.025)


def test_detectable_difference_needs_as_many_subjects_as_an_interval() -> None:
    assert detectable_difference([0.1, 0.2, 0.3, 0.4]) is None
    assert detectable_difference([0.2] * 8) == 0.0
