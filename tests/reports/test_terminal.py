"""Tables on the terminal: whatever its width, no number is cut."""

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from dbbench.reports.formats.terminal import print_table

HEADER = ("method", "mean", "95%", "p (Holm)")
ROWS = (
    ("DINO",),
    ("  textual_inversion", "0.321", "0.252 to 0.391", "<0.001"),
    ("  real-images - textual_inversion", "+0.428", "+0.359 to +0.494", ""),
)


def printed(width: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    print_table(console, "[b]title[/b]", HEADER, ROWS, banners=["banner"], left=(0,))
    return stream.getvalue()


@pytest.mark.parametrize("width", [30, 40, 50, 60, 80, 120])
def test_every_number_is_whole_at_any_width(width: int):
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("0.321", "0.252 to 0.391", "<0.001", "+0.428", "+0.359 to +0.494"):
        assert number in text
    assert re.search("textual_inversion\\b", text)
    assert "[b]title[/b]" in text
    assert "banner" in text


def test_a_wide_terminal_shows_columns_and_a_narrow_one_names_each_value():
    assert re.search(r"method +mean +95% +p \(Holm\)", printed(80))
    narrow = " ".join(printed(40).split())
    assert "textual_inversion mean: 0.321; 95%: 0.252 to 0.391; p (Holm): <0.001" in narrow
    assert "mean: +0.428; 95%: +0.359 to +0.494 banner" in narrow  # the empty cell is left out


def test_a_path_without_spaces_is_folded_and_numbers_keep_their_place():
    stream = io.StringIO()
    path = "runs/" + "x" * 60
    print_table(
        Console(file=stream, width=60), "t", ("file", "value"), [(path, Text("0.984", style="red"))]
    )
    lines = stream.getvalue().splitlines()
    assert any(line.rstrip().endswith("0.984") for line in lines)
    assert "".join(re.findall("[runs/x]+", stream.getvalue())).count("x") == 60


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_list_has_no_frame_and_every_word_of_it_is_there(width: int):
    stream = io.StringIO()
    rows = [("textual_inversion", "three words here\nand [a] second line"), ("dreambooth", "")]
    print_table(Console(file=stream, width=width), "", ("name", "what it is"), rows, left=(0, 1))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert not set(text) & set("─━")
    assert "three words here and [a] second line" in " ".join(
        text.replace("textual_inversion", "").split()
    )
    if width == 120:  # A cell of two lines is as wide as its longer line.
        assert text.splitlines()[0].split() == ["name", "what", "it", "is"]
        assert len(text.splitlines()) == 4
