"""A text file says the same however an editor or a spreadsheet saved it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbbench.errors import UserError
from dbbench.study.answers.answers import file_table, read_answers
from dbbench.suites.suite import load_suite
from dbbench.text_files import read_csv, read_jsonl, read_text, read_toml

ROWS = [["image", "subject", "prompt"], ["img/0.png", "dog", 'a "red" dog, in the snow']]
CSV = 'image,subject,prompt\r\nimg/0.png,dog,"a ""red"" dog, in the snow"\r\n'


def written(folder: Path, content: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    text = "description = 'Größe 丛林'\n"
    assert read_text(written(tmp_path, text.encode(encoding)), "the file") == text


def test_other_encodings_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = written(tmp_path, "Größe".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read the list .*byte 2 .*save the file as UTF-8"):
        read_text(path, "the list")


def rows(path: Path) -> list[list[str]]:
    columns, records = read_csv(path, "the list")
    assert not [record.problem for record in records if record.problem]
    return [columns, *([str(v) for v in record.values.values()] for record in records)]


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.replace("\r\n", "\n"),
        CSV.replace("\r\n", "\r"),
        CSV.replace("image,subject,prompt", "image;subject;prompt").replace("g,dog,", "g;dog;"),
        CSV.replace("image,subject,prompt", "image\tsubject\tprompt").replace("g,dog,", "g\tdog\t"),
        "sep=,\r\n" + CSV,
        "\r\n" + CSV + ",,\r\n\r\n",
        CSV.replace("image,subject", "image, subject"),
    ],
)
def test_tables_of_spreadsheets_say_the_same(tmp_path: Path, text: str) -> None:
    assert rows(written(tmp_path, text)) == ROWS


def test_a_row_that_lacks_last_cells_has_them_empty(tmp_path: Path) -> None:
    """Excel leaves out the separators of empty last columns (Microsoft KB 77295)."""
    columns, records = read_csv(written(tmp_path, "a,b,c\n1,2\n"), "the list")
    assert columns == ["a", "b", "c"]
    assert records[0].values == {"a": "1", "b": "2"}


def test_a_text_with_a_comma_needs_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, "image,prompt\n0.png,a dog, in the snow\n1.png,b\n")
    _, (bad, good) = read_csv(path, "the list")
    assert bad.problem.startswith("3 cells, but the first row has 2; put a cell")
    assert good.values == {"image": "1.png", "prompt": "b"}


@pytest.mark.parametrize("cell", ['"a dog', '"a \\"red\\" dog"', '"a" dog'])
def test_quotes_that_do_not_match_name_their_line(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, f"image,prompt\n0.png,b\n1.png,{cell}\n2.png,c\n")
    with pytest.raises(UserError, match=r"cannot read the list .*line \d.*twice"):
        read_csv(path, "the list")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='two columns "prompt"'):
        read_csv(written(tmp_path, "prompt,image,prompt\na,b,c\n"), "the list")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_end_with_a_line_feed_only(tmp_path: Path, encoding: str, end: str) -> None:
    values = [{"text": "a\u2028dog\x85\x0c"}, {"text": "b"}]
    text = end.join(json.dumps(value, ensure_ascii=False) for value in values)
    path = written(tmp_path, text.encode(encoding))
    assert [record.values for record in read_jsonl(path, "the list")] == values
    joined = written(tmp_path, (text + end).encode("utf-8-sig") * 2)
    assert [record.values for record in read_jsonl(joined, "the list")] == values * 2


def test_a_suite_that_notepad_saved_is_read(tmp_path: Path) -> None:
    text = 'extends = "mini"\nname = "my"\ndescription = "mine"\n'
    for encoding in ("utf-8-sig", "utf-16"):
        path = written(tmp_path, text.encode(encoding), f"{encoding}.toml")
        assert load_suite(str(path)).description == "mine"
    with pytest.raises(UserError, match=r"cannot read suite .*save the file as UTF-8"):
        read_toml(written(tmp_path, b"name = '\xff'", "latin.toml"), "suite")


ANSWERS = (
    "rater;pair;question;subject;left_method;right_method;choice;seconds\n"
    "r1;p1;subject;dog;a;b;left;12,5\n"
)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_answers_that_a_spreadsheet_saved_are_read(tmp_path: Path, encoding: str) -> None:
    table = file_table(written(tmp_path, ANSWERS.encode(encoding)))
    assert table.loc[0, ["rater", "choice", "seconds"]].tolist() == ["r1", "left", 12.5]


def test_answers_shift_no_column(tmp_path: Path) -> None:
    """pandas takes the first column for an index where rows have one cell more."""
    path = written(tmp_path, "rater,pair,choice\nr1,p1,left,extra\n")
    with pytest.raises(UserError, match="line 2: 4 cells"):
        read_answers(path)
    path = written(tmp_path, ANSWERS.replace("12,5", "soon"))
    with pytest.raises(UserError, match='answer 1: seconds "soon" is not a number'):
        file_table(path)
