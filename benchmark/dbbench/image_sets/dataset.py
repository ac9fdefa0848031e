"""Reads a data set saved by the Hugging Face library, or the Parquet files of its hub."""

from __future__ import annotations

from pathlib import Path

from dbbench.errors import UserError
from dbbench.image_sets.image_set import ImageRow
from dbbench.image_sets.rows import Rows, check_columns, from_records

SAVED = ("dataset_dict.json", "state.json")


def is_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote this folder, or it contains Parquet files."""
    return any((folder / name).is_file() for name in SAVED) or bool(_shards(folder))


def read(folder: Path, scratch: Path) -> Rows:
    """Return a row for each record of every split. Raises UserError if it cannot be read."""
    import datasets

    saved = any((folder / name).is_file() for name in SAVED)
    try:
        if saved:
            loaded = datasets.load_from_disk(str(folder))
        else:
            files = [str(path) for path in _shards(folder)]
            loaded = datasets.Dataset.from_parquet(files, cache_dir=str(scratch / "parquet"))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read the data set {folder}: {reason}") from None
    splits = loaded.values() if isinstance(loaded, dict) else [loaded]
    rows: list[ImageRow] = []
    refused: list[str] = []
    for split in splits:
        check_columns(split.column_names, what=str(folder))
        for name, feature in split.features.items():
            if isinstance(feature, datasets.Image):  # Keep the bytes; decode nothing.
                split = split.cast_column(name, datasets.Image(decode=False))
        found = from_records(split, what=folder.name, folder=folder, scratch=scratch)
        rows.extend(found.rows)
        refused.extend(found.refused)
    return Rows(rows, refused)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
