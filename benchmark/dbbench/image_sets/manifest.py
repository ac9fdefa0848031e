"""Reads a CSV, Parquet or JSONL file with one row per image: image, subject, prompt or text."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbbench.errors import UserError
from dbbench.image_sets.rows import Rows, check_columns, from_records

INSIDE = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the list of images in an image folder of the datasets library."""


def inside(folder: Path) -> Path | None:
    """Return the list of images in a folder of images; None if there is none."""
    return next((folder / name for name in INSIDE if (folder / name).is_file()), None)


def read(path: Path, scratch: Path) -> Rows:
    """Return the manifest's rows. Raises UserError if it cannot be read or lacks a column."""
    refused: list[str] = []
    try:
        match path.suffix.lower():
            case ".csv":
                records = _read_csv(path)
            case ".jsonl":
                records = _read_jsonl(path, refused)
            case _:
                records = _read_parquet(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot read the manifest {path}: {reason}") from None
    columns = list(dict.fromkeys(name for record in records for name in record))
    check_columns(columns, what=str(path))
    found = from_records(records, what=path.name, folder=path.parent, scratch=scratch)
    return Rows(found.rows, (*refused, *found.refused))


def _read_csv(path: Path) -> list[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        records: list[Mapping[str, Any]] = [
            {name: value for name, value in record.items() if name is not None} for record in reader
        ]
        if not records:  # An empty table still has columns that may be wrong.
            check_columns(reader.fieldnames or (), what=str(path))
    return records


def _read_jsonl(path: Path, refused: list[str]) -> list[Mapping[str, Any]]:
    records: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            refused.append(f"{path.name} line {number}: not a JSON object")
    return records


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read the manifest {path}: {reason}") from None
    check_columns(table.column_names, what=str(path))
    return list(table.to_pylist())
