"""Many raters at once, a killed server: nothing that was confirmed is lost, nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study_databases import NewDatabase, new_database, postgresql  # noqa: F401
from study_run import write_run

# ruff: noqa: F811 - fixtures are imported by name


def load(repository: Path, folder: Path, url: str, *options: object) -> dict[str, Any]:
    """Run benchmark/measurements/study/load.py and return what it found."""
    run = write_run(folder / "run", prompts=10, images=8, subjects=("dog", "teapot"))
    command = [
        sys.executable,
        str(repository / "benchmark" / "measurements" / "study" / "load.py"),
        str(run),
    ]
    command += ["--database", url, "--out", str(folder / "load.json"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads((folder / "load.json").read_text()).values()
    assert isinstance(result, dict)
    return result


def check(result: dict[str, Any], raters: int, questions: int) -> None:
    assert (result["lost"], result["changed"], result["doubled"]) == (0, 0, 0)
    assert result["raters_through"] == raters
    # Every question and two attention checks of everybody, and nothing else. What was stored when
    # the server was killed may not have been confirmed: at most one answer of each rater.
    assert result["answers_stored"] == raters * (questions + 2)
    unheard = result["answers_stored"] - result["answers_confirmed"]
    assert 0 <= unheard <= (raters if result["killed_after_answers"] else 0)
    assert result["every_pair_has_its_raters"]


def test_a_killed_server_loses_nothing_that_was_confirmed(
    repository: Path, tmp_path: Path, new_database: NewDatabase
) -> None:
    options = ["--raters", 12, "--questions", 5, "--think", 0.2, "--kill"]
    result = load(repository, tmp_path, new_database(), *options)
    check(result, 12, 5)
    assert result["killed_after_answers"] > 0
    assert result["broken_connections"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_two_hundred_raters_at_once(
    repository: Path, tmp_path: Path, new_database: NewDatabase, kill: bool
) -> None:
    options = ["--raters", 200, "--questions", 25, *(["--kill"] if kill else [])]
    result = load(repository, tmp_path, new_database(), *options)
    check(result, 200, 25)
