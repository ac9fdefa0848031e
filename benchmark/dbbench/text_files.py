"""Text files that users write: TOML, CSV and JSON Lines as editors and spreadsheets save them.

Every text file of a user is read here: suites, protocols, prompts, lists of images, answers.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from dbbench.errors import UserError

# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATORS = (",", ";", "\t", "|")
"""A comma; Excel's where the comma is for decimals; Excel's "Unicode text"; some databases."""


class Record(NamedTuple):
    """One row of a table, or the reason why it is not one."""

    line: int
    """The line in the file where it ends, from 1."""
    values: Mapping[str, Any]
    problem: str = ""


def read_text(file: Path | Traversable, what: str) -> str:
    """Return a file's text, without its byte order mark; line ends are kept.

    Text is UTF-8, or UTF-16 or UTF-32 as Windows writes it. `what` names the file in messages: "the
    manifest". Raises UserError if it cannot be read or has another encoding.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {what} {file}: {error.strerror or error}") from None
    try:
        return _decode(content)
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {what} {file}: byte {error.start} is not {error.encoding.upper()} text;"
            " save the file as UTF-8"
        ) from None


def read_toml(file: Path | Traversable, what: str) -> dict[str, Any]:
    """Return the values of a TOML file. Raises UserError if it cannot be read or is not TOML."""
    text = read_text(file, what)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{what} {file} is not valid TOML: {error}") from None


def read_csv(file: Path, what: str) -> tuple[list[str], list[Record]]:
    """Return the columns of a CSV file, and a record for each row that is not empty.

    Quotes follow RFC 4180: a cell with a separator, a quote or a line end is in quotes, and a quote
    in it is doubled. The separator is a comma, a semicolon, a tab or a bar, whichever gives the
    first row the most cells, or what Excel's line "sep=;" says. Raises UserError if the file cannot
    be read, its quotes do not match, or two columns have one name.
    """
    text = read_text(file, what)
    hint = re.match(r"sep=(\S|\t)[ \t]*(\r\n|\n|\r)", text, re.IGNORECASE)
    text, skipped = (text[hint.end() :], 1) if hint else (text, 0)
    separator = hint[1] if hint else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num + skipped, row) for row in reader if _filled(row)]
    except csv.Error as error:
        raise UserError(
            f"cannot read {what} {file}: line {reader.line_num + skipped}: {error}; put a cell with"
            ' quotes or separators in quotes, and write a quote in it twice: "a ""red"" dog"'
        ) from None
    if not rows:
        return [], []
    columns = [name.strip() for name in rows[0][1]]
    if doubled := [name for name in columns if name and columns.count(name) > 1]:
        raise UserError(f'{what} {file} has two columns "{doubled[0]}"; rename one')
    return columns, [_record(line, columns, cells) for line, cells in rows[1:]]


def read_jsonl(file: Path, what: str) -> list[Record]:
    """Return a record for each line of a JSON Lines file that is not empty.

    A line ends with a line feed only (jsonlines.org); other line ends of Unicode may be in a text.
    Raises UserError if the file cannot be read.
    """
    lines = enumerate(read_text(file, what).split("\n"), 1)
    return [_object(number, line) for number, line in lines if line.strip()]


def _decode(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    if b"\0" in content[:2]:  # UTF-16 without a mark: the first character is ASCII.
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le")
    return content.decode("utf-8")


def _separator(text: str) -> str:
    """Return the separator that gives the first row the most cells; a comma if all are equal."""

    def cells(separator: str) -> int:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        return len(next(filter(_filled, reader), []))

    return max(_SEPARATORS, key=cells)


def _filled(cells: list[str]) -> bool:
    return any(map(str.strip, cells))


def _record(line: int, columns: list[str], cells: list[str]) -> Record:
    values = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
    if _filled(cells[len(columns) :]):  # Fewer are empty cells: Excel leaves out the last ones.
        problem = f"{len(cells)} cells, but the first row has {len(columns)}"
        return Record(line, values, f"{problem}; put a cell that contains the separator in quotes")
    return Record(line, values)


def _object(number: int, line: str) -> Record:
    try:
        values = json.loads(line.removeprefix("\ufeff"))  # Files joined with their marks.
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return Record(number, {}, "not a JSON object")
    return Record(number, values)
