"""Answers as a table for the analysis, and as CSV or JSONL files for export and import."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from dbbench.errors import UserError
from dbbench.study.design.study import CHOICES, Study
from dbbench.text_files import read_csv, read_jsonl

COLUMNS = (
    "rater",
    "pair",
    "question",
    "subject",
    "prompt",
    "left_method",
    "right_method",
    "left_image",
    "right_image",
    "choice",  # left, right or undecided
    "check",  # the known answer of an attention check, else empty
    "seconds",
    "answered_at",  # ISO 8601, UTC
    "origin",  # link, open, import, or simulated
    "banner",  # must be shown on every result of these answers; mostly empty
)
FILE_TYPES = {"csv": "text/csv", "jsonl": "application/jsonl"}
_NEEDED_ALONE = ("rater", "pair", "question", "subject", "left_method", "right_method", "choice")


def answer_table(study: Study, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per answer with `COLUMNS`, from the rows of the store."""
    table = []
    for row in rows:
        pair = study.by_id.get(row["pair"])
        if pair is None:
            raise UserError(
                f"the database holds an answer to pair {row['pair']}, which is not in this study"
            )
        table.append(
            {
                "rater": row["rater"],
                "pair": pair.id,
                "question": study.question,
                "subject": pair.subject,
                "prompt": pair.prompt,
                "left_method": pair.left.method,
                "right_method": pair.right.method,
                "left_image": pair.left.image,
                "right_image": pair.right.image,
                "choice": row["choice"],
                "check": pair.answer or "",
                "seconds": row["seconds"],
                "answered_at": _iso(row["answered_at"]),
                "origin": row["origin"],
                "banner": study.banner or "",
            }
        )
    return pd.DataFrame(table, columns=list(COLUMNS))


def export_text(study: Study, rows: Iterable[Mapping[str, Any]], kind: str) -> str:
    """Return all answers as "csv" or "jsonl"."""
    table = answer_table(study, rows)
    if kind == "csv":
        return table.to_csv(index=False, lineterminator="\n")
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV or JSONL file as written; a row has no key for an empty cell.

    Raises UserError for a file that cannot be read, and for a row without rater, pair or choice.
    """
    if path.suffix == ".jsonl":
        records = read_jsonl(path, "the answers")
    elif path.suffix == ".csv":
        _, records = read_csv(path, "the answers")
    else:
        raise UserError(f"{path}: the name must end in .csv or .jsonl")
    cleaned = []
    for number, (line, row, problem) in enumerate(records, 1):
        if problem:
            raise UserError(f"{path}, line {line}: {problem}")
        full = {str(k): v for k, v in row.items() if v is not None and v != ""}
        for name in ("rater", "pair", "choice"):
            if name not in full:
                raise UserError(f"{path}, answer {number}: {name} is missing")
        if full["choice"] not in CHOICES:
            raise UserError(
                f'{path}, answer {number}: the choice "{full["choice"]}" is none of'
                f" {', '.join(CHOICES)}"
            )
        cleaned.append(full)
    if not cleaned:
        raise UserError(f"{path} holds no answers")
    return cleaned


def file_table(path: Path) -> pd.DataFrame:
    """Return a file of answers as a table that can be analysed without a study's folder."""
    rows = read_answers(path)
    for number, row in enumerate(rows, 1):
        for name in _NEEDED_ALONE:
            # An attention check compares no methods.
            if name not in row and not (name.endswith("_method") and "check" in row):
                raise UserError(f"{path}, answer {number}: {name} is missing")
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table["seconds"] = [_seconds(row, f"{path}, answer {n}") for n, row in enumerate(rows, 1)]
    table["seconds"] = table["seconds"].astype("float64")
    text = [name for name in COLUMNS if name != "seconds"]
    # As objects: pandas reads an empty column as floats, which cannot hold text.
    table[text] = table[text].astype(object).fillna("").astype(str)
    doubled = table.duplicated(["rater", "pair"])
    if doubled.any():
        first = table.loc[doubled].iloc[0]
        raise UserError(f"{path}: rater {first['rater']} has two answers to pair {first['pair']}")
    return table


def importable(study: Study, path: Path) -> list[dict[str, Any]]:
    """Return a file's answers as `Store.add` takes them. Raises UserError for other studies'.

    Required: rater (any opaque name), pair and choice. Optional: seconds and answered_at.
    """
    rows = []
    for number, row in enumerate(read_answers(path), 1):
        where = f"{path}, answer {number}"
        if str(row["pair"]) not in study.by_id:
            raise UserError(f'{where}: the pair "{row["pair"]}" is not one of this study')
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", str(row["rater"])):
            raise UserError(
                f'{where}: the rater "{row["rater"]}" must be 1 to 64 letters, digits, _ . or -'
            )
        seconds = _seconds(row, where)
        try:
            at = row.get("answered_at")
            moment = datetime.now(UTC) if at is None else datetime.fromisoformat(str(at))
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        rows.append(
            {
                "rater": str(row["rater"]),
                "pair": str(row["pair"]),
                "choice": str(row["choice"]),
                "seconds": seconds,
                "answered_at": int(moment.timestamp() * 1000),
                "origin": str(row.get("origin", "import")),
            }
        )
    return rows


def _seconds(row: Mapping[str, Any], where: str) -> float | None:
    """Return the seconds of an answer; a comma is a decimal comma, as German Excel writes it."""
    if "seconds" not in row:
        return None
    try:
        return float(str(row["seconds"]).replace(",", "."))
    except ValueError:
        raise UserError(f'{where}: seconds "{row["seconds"]}" is not a number') from None


def _iso(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds")
