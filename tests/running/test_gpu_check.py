"""The kit for a GPU, in small on the CPU: what `make gpu-check` will do works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "benchmark" / "measurements" / "gpu" / "check.py"


def check(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(CHECK), "--out", str(out), *more],
        capture_output=True, text=True, check=False, env=environment, timeout=1200,
    )  # fmt: skip


@pytest.mark.slow
def test_the_kit_settles_every_section_in_small(tmp_path: Path) -> None:
    names = ["load", "bits", "cpu", "estimate", "cards", "killed", "jobs", "together", "compiled"]
    chosen = ("--tiny", "--sections", ",".join(names), "--work", str(tmp_path / "work"))
    done = check(tmp_path / "found.json", *chosen)
    assert done.returncode == 0, done.stderr[-2000:]
    sections = json.loads((tmp_path / "found.json").read_text())["sections"]
    assert list(sections) == names
    assert all(found["ok"] for found in sections.values())
    assert sections["killed"]["was_killed"]
    assert sections["killed"]["different"] == 0
    assert sections["cpu"]["loss_relative"] == 0
    table = (tmp_path / "found.md").read_text()
    assert table.count("| ok |") == len(sections)
    assert table in done.stdout


@pytest.mark.slow
def test_a_section_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = check(tmp_path / "found.json", "--tiny", "--sections", "load,speeed")
    assert done.returncode == 2
    assert "no section speeed" in done.stderr
