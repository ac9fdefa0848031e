"""Only images of the same subject, prompt and seed are compared, and what is left out is named."""

import pandas as pd
import pytest

from dbbench.evaluation.pairing import shared_rows


def table(*rows: tuple[str, str | None, int | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["subject", "prompt", "seed"])
    return frame.assign(value=1.0, seed=frame["seed"].astype("Int64"))


def test_what_one_side_alone_has_is_left_out_and_counted() -> None:
    whole = table(("dog", "jungle", 0), ("dog", "snow", 0), ("dog", "beach", 0))
    part = table(("dog", "snow", 0), ("dog", "beach", 0), ("cat", "snow", 0))
    shared = shared_rows(whole, part)
    assert shared.a["prompt"].tolist() == shared.b["prompt"].tolist() == ["snow", "beach"]
    assert shared.left_out == (1, 1)
    assert shared.problem == ""
    assert shared.note("A", "B") == (
        "A - B leaves out 1 image of A and 1 image of B: no counterpart of the same"
        " subject, prompt and seed"
    )


def test_seeds_count_where_both_have_them_and_share_some() -> None:
    first = table(("dog", "snow", 0), ("dog", "snow", 1))
    assert shared_rows(first, table(("dog", "snow", 1))).left_out == (1, 0)
    assert shared_rows(first, table(("dog", "snow", 7))).left_out == (0, 0)
    assert shared_rows(first, table(("dog", "snow", None))).left_out == (0, 0)


def test_real_images_have_no_prompt_and_are_paired_by_subject() -> None:
    real = table(("dog", None, None), ("cat", None, None))
    shared = shared_rows(real, table(("dog", "snow", 0)))
    assert shared.left_out == (1, 0)
    assert shared.keys == ("subject",)


@pytest.mark.parametrize(("count", "enough"), [(1, False), (2, True)])
def test_too_little_in_common_is_a_problem(count: int, enough: bool) -> None:
    first = table(*[("dog", f"p{n}", 0) for n in range(4)])
    second = table(*[("dog", f"p{n + 4 - count}", 0) for n in range(4)])
    problem = shared_rows(first, second).problem
    assert (problem == "") == enough
    if not enough:
        assert problem == "only 1 of 4 images have the same subject, prompt and seed in both"
