"""The leaderboard averages by subject, shows what is missing, and ranks only what it can tell."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dbbench.evaluation.leaderboard import Expectation, Leaderboard, rank_methods
from dbbench.evaluation.metrics.clip_t import ClipT
from dbbench.evaluation.metrics.dino import Dino
from dbbench.evaluation.scores import REAL, score_table

BANNER = "mini: embedded world, not comparable with published numbers"
SUBJECTS = tuple(f"subject{i:02d}" for i in range(12))
PROMPTS = ("jungle", "snow")


def rows(
    method: str, level: float, *, subjects: Iterable[str] = SUBJECTS, seeds: Iterable[int] = (0,)
) -> list[dict[str, Any]]:
    """Return made-up scores: the method's level, each subject's difficulty, a little noise."""
    made = []
    for subject in subjects:
        number = SUBJECTS.index(subject)
        # The same noise for each method would be a tie broken by nothing: draw it by name.
        rng = np.random.default_rng([number, *method.encode()])
        for seed in seeds:
            for prompt in PROMPTS:
                for metric in ("dino", "clip-t"):
                    value = level + 0.02 * number + rng.normal(0, 0.01)
                    made.append(
                        {
                            "suite": "mini",
                            "method": method,
                            "subject": subject,
                            "class_noun": "dog",
                            "kind": "live",
                            "seed": seed,
                            "prompt": prompt,
                            "category": "recontextualization",
                            "image": f"{prompt}/0.png",
                            "metric": metric,
                            "value": value,
                        }
                    )
    return made


def real_rows(level: float) -> list[dict[str, Any]]:
    changes = {"method": REAL, "seed": None, "prompt": None, "category": None}
    one = [r for r in rows(REAL, level) if r["prompt"] == "jungle" and r["metric"] == "dino"]
    return [r | changes | {"image": "00.png"} for r in one]


def board(*parts: list[dict[str, Any]], **changes: Any) -> Leaderboard:
    table = score_table([row for part in parts for row in part])
    values: dict[str, Any] = {
        "suite": "mini",
        "banner": BANNER,
        "subjects": SUBJECTS,
        "methods": tuple(dict.fromkeys(m for m in table["method"] if m != REAL)),
        "seeds": (0,),
        "images_per_run": len(PROMPTS),
    }
    return rank_methods(table, Expectation(**values | changes), [Dino(), ClipT()])


def line(result: Leaderboard, method: str) -> pd.Series:
    return result.ranking.set_index("method").loc[method]


def test_every_subject_weighs_the_same_however_many_images_it_has() -> None:
    few = rows("a", 0.2, subjects=SUBJECTS[:1])
    many = rows("a", 0.8, subjects=SUBJECTS[1:2], seeds=range(20))
    result = board(few, many, subjects=SUBJECTS[:2], seeds=tuple(range(20)))
    means = result.subjects.query("metric == 'dino'")["mean"]
    assert line(result, "a")["dino"] == pytest.approx(means.mean())
    assert line(result, "a")["dino"] == pytest.approx(0.51, abs=0.02)


def test_per_subject_means_are_over_prompts_images_and_seeds() -> None:
    made = rows("a", 0.5, seeds=(0, 1))
    result = board(made, seeds=(0, 1))
    one = result.subjects.query("subject == 'subject03' and metric == 'clip-t'").iloc[0]
    values = [r["value"] for r in made if r["subject"] == "subject03" and r["metric"] == "clip-t"]
    assert one["mean"] == pytest.approx(np.mean(values))
    assert one["images"] == 4


def test_better_method_ranks_first_and_the_oracle_stands_on_top_without_a_rank() -> None:
    result = board(rows("worse", 0.3), rows("better", 0.4), real_rows(0.7))
    assert result.ranking["method"].tolist() == [REAL, "better", "worse"]
    assert line(result, "better")["dino_rank"] == 1
    assert line(result, "worse")["dino_rank"] == 2
    assert pd.isna(line(result, REAL)["dino_rank"])
    assert pd.isna(line(result, REAL)["clip-t"])


def test_methods_that_the_test_cannot_tell_apart_share_a_rank() -> None:
    result = board(rows("a", 0.4), rows("b", 0.4), rows("c", 0.1))
    assert [line(result, m)["dino_rank"] for m in "abc"] == [1, 1, 3]
    assert [bool(line(result, m)["dino_tied"]) for m in "abc"] == [True, True, False]


def test_missing_run_is_shown_but_not_ranked() -> None:
    result = board(rows("whole", 0.3), rows("part", 0.9, subjects=SUBJECTS[:10]))
    part = line(result, "part")
    assert part["note"] == "10/12 subjects"
    assert (part["subjects"], part["subjects_planned"]) == (10, 12)
    assert part["dino"] > line(result, "whole")["dino"]
    assert pd.isna(part["dino_rank"])
    assert line(result, "whole")["dino_rank"] == 1
    assert "part is not ranked: 10/12 subjects" in result.reasons


def test_missing_seed_and_missing_images_are_missing_runs() -> None:
    result = board(rows("a", 0.3, seeds=(0, 1)), rows("b", 0.3), seeds=(0, 1))
    assert line(result, "b")["note"] == "12/24 runs"
    short = [r for r in rows("a", 0.3) if (r["subject"], r["prompt"]) != ("subject05", "snow")]
    assert line(board(short), "a")["note"] == "11/12 subjects"


def test_method_without_any_score_is_listed() -> None:
    result = board(rows("a", 0.3), methods=("a", "planned"))
    planned = line(result, "planned")
    assert planned["note"] == "0/12 subjects"
    assert planned["images"] == 0
    assert pd.isna(planned["dino"])
    assert result.ranking["method"].tolist()[-1] == "planned"


def test_differences_are_paired_with_the_better_method_first() -> None:
    result = board(rows("worse", 0.3), rows("better", 0.4), real_rows(0.7))
    own = result.differences.query("metric == 'dino' and a == 'better'").iloc[0]
    assert own["b"] == "worse"
    assert own["difference"] == pytest.approx(0.1, abs=0.02)
    assert 0 < own["low"] < own["difference"] < own["high"]
    assert own["p_holm"] >= own["p"]
    assert own["subjects"] == 12
    real = result.differences.query(f"metric == 'dino' and a == '{REAL}'")
    assert sorted(real["b"]) == ["better", "worse"]
    assert (real["low"] > 0).all()


def test_comparisons_with_the_oracle_cost_the_methods_no_power() -> None:
    result = board(rows("a", 0.3), rows("b", 0.4), real_rows(0.7))
    own = result.differences.query("metric == 'dino' and a == 'b'").iloc[0]
    assert own["p_holm"] == own["p"]
    three = board(rows("a", 0.3), rows("b", 0.4), rows("c", 0.5))
    assert (three.differences["p_holm"] > three.differences["p"]).any()


def test_differences_use_only_subjects_that_both_have() -> None:
    result = board(rows("a", 0.3), rows("b", 0.4, subjects=SUBJECTS[3:]))
    assert set(result.differences["subjects"]) == {9}


def test_lower_is_better_turns_the_order() -> None:
    class Distance(Dino):
        higher_is_better = False

    table = score_table(rows("low", 0.1) + rows("high", 0.6))
    expectation = Expectation("mini", None, SUBJECTS, ("high", "low"), (0,), len(PROMPTS))
    result = rank_methods(table, expectation, [Distance()])
    assert result.ranking["method"].tolist() == [REAL, "low", "high"]
    assert line(result, "low")["dino_rank"] == 1
    assert line(result, "high")["dino_rank"] == 2
    assert result.differences.iloc[0]["a"] == "low"


def test_few_subjects_have_scores_without_intervals_and_the_reason() -> None:
    result = board(rows("a", 0.3, subjects=SUBJECTS[:2]), subjects=SUBJECTS[:2])
    assert line(result, "a")["dino"] == pytest.approx(0.31, abs=0.02)
    assert pd.isna(line(result, "a")["dino_low"])
    assert any("here 2 subjects" in reason for reason in result.reasons)


def test_banner_is_on_every_row_of_every_table() -> None:
    result = board(rows("a", 0.3), rows("b", 0.4))
    for table in (result.ranking, result.subjects, result.differences):
        assert set(table["banner"]) == {BANNER}


def test_subjects_and_seeds_outside_the_selection_do_not_count() -> None:
    result = board(rows("a", 0.3, seeds=(0, 7)), subjects=SUBJECTS[:6])
    assert line(result, "a")["images"] == 6 * len(PROMPTS)
    assert set(result.subjects["images"]) == {len(PROMPTS)}
