from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from harness import contents, installed, plugin_folder, run, suite, suite_file, written  # noqa: F401

from dbbench.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name


def start(suite_file: Path, plugin_folder: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own; each image takes a while."""
    tests = Path(__file__).parent
    command = [
        sys.executable, "-c", "from dbbench.cli import main; main()", "run", "--suite", suite_file,
        "--subjects", "dog,can", "--out", out, "--device", "cpu",
        "--set", "methods.tinted.pause=0.03", "--set", "methods.plain.pause=0.03",
    ]  # fmt: skip
    path = [str(plugin_folder), str(tests), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    return subprocess.Popen(
        [str(part) for part in command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(out: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + 300
    while not list(out.glob(pattern)):
        if process.poll() is not None:
            said = "" if process.stdout is None else process.stdout.read()
            raise AssertionError(f"ended before {pattern} was there: {said}")
        assert time.monotonic() < limit
        time.sleep(0.005)


# Moments of a run: while class images and samples are written, early and late.
MOMENTS = [
    "prior/.dog.*/0001.png",
    "runs/tinted/dog/0/.samples.*/beach/0.png",
    "runs/plain/can/0/.samples.*/milk/0.png",
]


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(
    tmp_path: Path, suite: Suite, suite_file: Path, plugin_folder: Path
) -> None:
    settings = ("methods.tinted.pause=0.03", "methods.plain.pause=0.03")
    run(suite, tmp_path / "whole", *settings)
    out = tmp_path / "killed"
    kept: dict[str, int] = {}
    for moment in MOMENTS:
        process = start(suite_file, plugin_folder, out)
        wait_for(out, moment, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # What was whole before is still the very same.
        now = written(out)
        assert kept.items() <= now.items()
        kept = now
    assert not (out / "scores.parquet").exists()
    run(suite, out, *settings)
    assert kept.items() <= written(out).items()
    assert contents(out) == contents(tmp_path / "whole")
    table = pd.read_parquet(out / "scores.parquet")
    assert table.equals(pd.read_parquet(tmp_path / "whole" / "scores.parquet"))
    assert not [path for path in out.rglob(".*") if path.suffix in {".partial", ".old", ".tmp"}]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_says_that_it_can_go_on(
    tmp_path: Path, suite_file: Path, plugin_folder: Path, number: int, code: int
) -> None:
    process = start(suite_file, plugin_folder, tmp_path)
    wait_for(tmp_path, "runs/tinted/dog/0/.samples.*/jungle/0.png", process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.strip().splitlines()[-1].startswith("stopped; what is done so far is kept")
    assert "Traceback" not in said
    assert (tmp_path / "runs/tinted/dog/0/checkpoint/manifest.json").is_file()
