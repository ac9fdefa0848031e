"""What users write is shown on the terminal as it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dbbench.terminal import plain_console

PACKAGE = Path(__file__).parents[1] / "benchmark" / "dbbench"
OWN_CONSOLE = {"terminal.py", "mini/training/train.py"}


@pytest.mark.parametrize("text", ["results [sdxl]/[b]x", "[/b] :dog: [red]", "a\\[b]", "[link=x]y"])
def test_text_of_users_is_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain_console().print(f"report: {text}", style="red", soft_wrap=True)
    assert capsys.readouterr().out == f"report: {text}\n"


def test_every_command_prints_to_the_plain_console() -> None:
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).as_posix() in OWN_CONSOLE:
            continue
        calls = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))))
        made = [n for n in calls if isinstance(n, ast.Call) and ast.unparse(n.func) == "Console"]
        assert not made, f"{file}: use plain_console()"
