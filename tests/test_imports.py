"""Claims about who imports whom: `.importlinter` holds on the assembled package and can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from assembly import OUTER, assembled

BROKEN = {
    "reports/tables_again.py": "def show() -> None:\n    from dbbench.running.run import execute\n",
    "evaluation/metrics/rude.py": "from dbbench.generation.method import Method\n",
    "data/upward.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
    "    from dbbench.suites.suite import Suite\n",
    "newcomer.py": '"""A module that no layer names."""\n',
    "mini/drawing/canvas_again.py": "from dbbench.mini.drawing.again import x\n",
}
WORDS = {
    "reports/tables_again.py": "Reports read files, they run nothing BROKEN",
    "evaluation/metrics/rude.py": "Generation and evaluation never meet BROKEN",
    "data/upward.py": "The flow of dbbench BROKEN",
    "newcomer.py": "The flow of dbbench BROKEN",
    "mini/drawing/canvas_again.py": "No circle among siblings, at any depth BROKEN",
}


def lint(repository: Path, folder: Path) -> tuple[int, str]:
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [command, repository / ".importlinter", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_every_contract_holds(repository: Path, tmp_path: Path) -> None:
    code, text = lint(repository, assembled(repository, tmp_path))
    assert code == 0, text
    assert "4 kept, 0 broken" in text


@pytest.mark.parametrize("place", list(BROKEN))
def test_a_contract_that_is_broken_on_purpose_fails(
    place: str, repository: Path, tmp_path: Path
) -> None:
    assembled(repository, tmp_path)
    (tmp_path / "dbbench" / place).write_text(BROKEN[place], encoding="utf-8")
    if "again" in place and "canvas" in place:
        again = tmp_path / "dbbench/mini/drawing/again.py"
        again.write_text("from dbbench.mini.drawing.canvas_again import y\n", encoding="utf-8")
    code, text = lint(repository, tmp_path)
    assert code == 1
    assert WORDS[place] in text


def test_no_package_has_more_than_fifteen_modules_side_by_side(repository: Path) -> None:
    folders = [repository / "benchmark" / "dbbench", *(repository / name for name in OUTER)]
    packages = [p.parent for folder in folders for p in folder.rglob("__init__.py")]
    assert len(packages) > 30
    counts = {p: len([m for m in p.glob("*.py") if m.name != "__init__.py"]) for p in packages}
    assert {p: n for p, n in counts.items() if n > 15} == {}
