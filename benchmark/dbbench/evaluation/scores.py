"""The score table, one row per image and metric: written by the score stage, read by tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dbbench.errors import UserError

REAL = "real-images"
"""The method name of the oracle: the subject's real images scored as if they had been generated."""

SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("class_noun", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # "live" or "object"
        pa.field("seed", pa.int64()),  # of the run; none for real images
        pa.field("prompt", pa.string()),  # its id; none for real images
        pa.field("category", pa.string()),
        pa.field("image", pa.string(), nullable=False),  # file below the samples or the references
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)
KEY = ["method", "subject", "seed", "prompt", "image", "metric"]
_TEXT = tuple(field.name for field in SCHEMA if field.type == pa.string())


def score_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a checked table of rows with the keys in `COLUMNS`; None is a missing value."""
    return check_scores(pd.DataFrame(list(rows), columns=list(COLUMNS)))


def check_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the columns in order and typed. Raises ValueError for a bad one.

    Errors are a missing or an unknown column, a value that is not finite, an empty name, and two
    rows for one image and metric. A value that cannot be computed has no row.
    """
    if set(table.columns) != set(COLUMNS):
        missing = sorted(set(COLUMNS) - set(table.columns))
        unknown = sorted(set(table.columns) - set(COLUMNS))
        raise ValueError(f"not a score table: columns missing {missing}, unknown {unknown}")
    table = table.loc[:, list(COLUMNS)].reset_index(drop=True)
    for column in _TEXT:
        table[column] = table[column].astype("string")
    table["seed"] = table["seed"].astype("Int64")
    table["value"] = table["value"].astype("float64")
    for field in SCHEMA:
        if not field.nullable and bool(table[field.name].isna().any()):
            raise ValueError(f'score table: column "{field.name}" has a missing value')
    if not bool(np.isfinite(table["value"].to_numpy()).all()):
        raise ValueError("score table: a value is not finite")
    if kinds := set(table["kind"].unique()) - {"live", "object"}:
        raise ValueError(f"score table: unknown kind {sorted(kinds)}")
    doubles = table.duplicated(KEY)
    if bool(doubles.any()):
        first = table.loc[doubles, KEY].iloc[0].to_dict()
        raise ValueError(f"score table: two rows for {first}")
    return table


def write_parts(parts: Iterable[pd.DataFrame], path: Path) -> None:
    """Write tables as row groups of one Parquet file; only one of them is in memory at a time.

    Each table is checked alone, so no two tables may have rows for the same image and metric.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    writer: pq.ParquetWriter | None = None
    for part in parts:
        arrow = pa.Table.from_pandas(check_scores(part), schema=SCHEMA, preserve_index=False)
        writer = writer or pq.ParquetWriter(temporary, arrow.schema)
        writer.write_table(arrow.replace_schema_metadata(writer.schema.metadata))
    if writer is None:
        raise ValueError("a score table needs at least one part")
    writer.close()
    os.replace(temporary, path)


def read_scores(path: Path) -> pd.DataFrame:
    """Return the table in a Parquet file. Raises UserError if it is missing or not valid."""
    if not path.is_file():
        raise UserError(f"no scores at {path}; run dbbench run first, or give another folder")
    try:
        return check_scores(pq.read_table(path).to_pandas())
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a score table ({error}); delete it and repeat dbbench run"
        ) from None
