"""Intervals cover what they promise, and too few subjects are told."""

import numpy as np
import pytest

from dbbench.evaluation.statistics import MIN_SUBJECTS, subject_interval


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


def test_weights_count_as_so_many_images() -> None:
    values = np.random.default_rng(8).normal(0.5, 0.1, size=10)
    assert subject_interval(values, weights=np.full(10, 4.0)) == subject_interval(values)
    heavy = subject_interval(values, weights=np.where(values == values.max(), 90.0, 1.0))
    assert heavy.high is not None
    assert heavy.high == pytest.approx(values.max(), abs=0.01)
    with pytest.raises(ValueError, match="weight"):
        subject_interval(values, weights=np.zeros(10))
