"""Reads a CSV, Parquet or JSONL file with one row per image: image, subject, prompt or text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbbench.errors import UserError
from dbbench.image_sets import dataset, folder
from dbbench.image_sets.rows import Rows, check_columns, from_records
from dbbench.text_files import Record, read_csv, read_jsonl

INSIDE = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the list of images in an image folder of the datasets library."""
_WHAT = "the manifest"


def inside(place: Path) -> Path | None:
    """Return the list of images in a folder of images; None if there is none.

    In a folder `<subject>/<prompt id>/`, a list without the columns of a manifest is another table,
    such as captions for a training.
    """
    found = next((place / name for name in INSIDE if (place / name).is_file()), None)
    if found is not None and folder.holds_images(place):
        try:
            check_columns(_columns(found), what=str(found))
        except UserError:
            return None
    return found


def read(path: Path, scratch: Path) -> Rows:
    """Return the manifest's rows. Raises UserError if it cannot be read or lacks a column."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, scratch)
    columns, records = _records(path)
    check_columns(columns, what=str(path))
    refused = [f"{path.name} line {line}: {problem}" for line, _, problem in records if problem]
    values = [record.values for record in records if not record.problem]
    found = from_records(values, what=path.name, folder=path.parent, scratch=scratch)
    return Rows(found.rows, (*refused, *found.refused))


def _records(path: Path) -> tuple[list[str], Sequence[Record]]:
    if path.suffix.lower() == ".csv":
        return read_csv(path, _WHAT)
    records = read_jsonl(path, _WHAT)
    return list(dict.fromkeys(name for record in records for name in record.values)), records


def _columns(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return dataset.parquet_columns(path)
    return _records(path)[0]


def _read_parquet(path: Path, scratch: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if b"huggingface" in (pq.read_schema(path).metadata or {}):  # Its labels are numbers.
            return dataset.read_parquet([path], path, scratch)
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read the manifest {path}: {reason}") from None
    check_columns(table.column_names, what=str(path))
    records: list[Mapping[str, Any]] = list(table.to_pylist())
    return from_records(records, what=path.name, folder=path.parent, scratch=scratch)
