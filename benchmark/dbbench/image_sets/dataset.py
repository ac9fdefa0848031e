"""Reads a data set saved by the Hugging Face library, or the Parquet files of its hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dbbench.errors import UserError
from dbbench.files import read_json
from dbbench.image_sets import folder as folders
from dbbench.image_sets.image_set import ImageRow
from dbbench.image_sets.rows import IMAGE, MANIFEST_COLUMNS, Rows, check_columns, from_records

SAVED = {"dataset_dict.json": "splits", "state.json": "_data_files"}
"""Files of `save_to_disk`, and a key that they have."""


def is_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote this folder, or it contains Parquet files of images.

    In a folder of images, a table without a column for images is no data set: dbbench writes such
    tables itself.
    """
    if _is_saved(folder):
        return True
    shards = _shards(folder)
    return bool(shards) and (_lists_images(shards) or not folders.holds_images(folder))


def read(folder: Path, scratch: Path) -> Rows:
    """Return a row for each record of every split. Raises UserError if it cannot be read."""
    import datasets

    try:
        if not _is_saved(folder):
            return read_parquet(_shards(folder), folder, scratch)
        loaded = datasets.load_from_disk(str(folder))
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(folder, error) from None
    splits = loaded.values() if isinstance(loaded, dict) else [loaded]
    return _read_splits(list(splits), folder, scratch)


def read_parquet(files: Sequence[Path], source: Path, scratch: Path) -> Rows:
    """Return a row for each record of Parquet files that the library wrote, in `source`.

    Paths are relative to the folder `source`, or to the folder of the file `source`.
    """
    import datasets

    names = [str(path) for path in files]
    try:
        loaded = datasets.Dataset.from_parquet(names, cache_dir=str(scratch / "parquet"))
    except Exception as error:
        raise _unreadable(source, error) from None
    return _read_splits([loaded], source, scratch)


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of a Parquet file; none if it cannot be read, which reading it says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return []


def _read_splits(splits: Sequence[Any], source: Path, scratch: Path) -> Rows:
    import datasets

    rows: list[ImageRow] = []
    refused: list[str] = []
    folder = source if source.is_dir() else source.parent
    for split in splits:
        check_columns(split.column_names, what=str(source))
        labels = {}
        for name, feature in split.features.items():
            if isinstance(feature, datasets.Image):  # Keep the bytes; decode nothing.
                split = split.cast_column(name, datasets.Image(decode=False))
            elif isinstance(feature, datasets.ClassLabel) and name in MANIFEST_COLUMNS:
                labels[name] = feature.names
        records = ({**record, **_named(record, labels)} for record in split)
        found = from_records(records, what=source.name, folder=folder, scratch=scratch)
        rows.extend(found.rows)
        refused.extend(found.refused)
    return Rows(rows, refused)


def _named(record: dict[str, Any], labels: dict[str, list[str]]) -> dict[str, str | None]:
    """Return the names of a record's class labels; the library writes -1 or None for no label."""
    numbers = {name: record[name] for name in labels}
    return {
        name: None if number is None or number < 0 else labels[name][number]
        for name, number in numbers.items()
    }


def _is_saved(folder: Path) -> bool:
    return any(key in read_json(folder / name) for name, key in SAVED.items())


def _shards(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder that are not score tables of dbbench."""
    found = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    listed = [path for path in found if not path.name.startswith(".")]
    return [path for path in listed if not _is_score_table(parquet_columns(path))]


def _is_score_table(columns: Sequence[str]) -> bool:
    return "banner" in columns or {"metric", "value"} <= set(columns)


def _lists_images(files: Sequence[Path]) -> bool:
    return any(set(IMAGE) & set(parquet_columns(path)) for path in files)


def _unreadable(source: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"cannot read the data set {source}: {reason}")
