"""The score table keeps every row, and refuses what is not one."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dbbench.errors import UserError
from dbbench.evaluation.scores import (
    COLUMNS,
    REAL,
    check_scores,
    read_scores,
    score_table,
    write_parts,
)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "suite": "mini",
        "method": "dreambooth",
        "subject": "dog",
        "class_noun": "dog",
        "kind": "live",
        "seed": 0,
        "prompt": "jungle",
        "category": "recontextualization",
        "image": "jungle/0.png",
        "metric": "dino",
        "value": 0.5,
    } | changes


def real(**changes: Any) -> dict[str, Any]:
    return row(method=REAL, seed=None, prompt=None, category=None, image="00.png") | changes


def test_table_survives_the_file(tmp_path: Path) -> None:
    table = score_table([row(), row(metric="clip-t", value=-0.1), real()])
    write_parts([table], tmp_path / "scores.parquet")
    again = read_scores(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(table, again)
    assert tuple(again.columns) == COLUMNS
    assert again["seed"].isna().tolist() == [False, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_empty_table_survives_the_file(tmp_path: Path) -> None:
    write_parts([score_table([])], tmp_path / "scores.parquet")
    assert len(read_scores(tmp_path / "scores.parquet")) == 0


def test_columns_may_come_in_any_order() -> None:
    table = score_table([row()])
    assert tuple(check_scores(table[sorted(table.columns)]).columns) == COLUMNS


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([row(value=float("nan"))], "value"),
        ([row(value=float("inf"))], "not finite"),
        ([row(subject=None)], 'column "subject"'),
        ([row(kind="plant")], "unknown kind"),
        ([row(), row(value=0.6)], "two rows"),
        ([real(), real(value=0.6)], "two rows"),
    ],
)
def test_bad_rows_are_refused(bad: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_table(bad)


def test_missing_and_unknown_columns_are_named() -> None:
    table = score_table([row()]).rename(columns={"value": "score"})
    with pytest.raises(ValueError, match=r"missing \['value'\], unknown \['score'\]"):
        check_scores(table)


def test_a_file_that_is_no_score_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(UserError, match="no scores at"):
        read_scores(path)
    path.write_bytes(b"PAR1 but cut")
    with pytest.raises(UserError, match="is not a score table"):
        read_scores(path)
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="is not a score table") as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
