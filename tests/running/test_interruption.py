from __future__ import annotations

import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from harness import (  # noqa: F401
    contents,
    installed,
    leftovers,
    plugin_folder,
    run,
    start,
    suite,
    suite_file,
    wait_for,
    written,
)

from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name


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
        process.signal(signal.SIGKILL)
        process.end()
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
    assert not leftovers(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_says_that_it_can_go_on(
    tmp_path: Path, suite_file: Path, plugin_folder: Path, number: int, code: int
) -> None:
    out = tmp_path / "out"
    process = start(suite_file, plugin_folder, out)
    wait_for(out, "runs/tinted/dog/0/.samples.*/jungle/0.png", process)
    process.signal(number)
    assert process.end() == code
    assert process.said.strip().splitlines()[-1].startswith("stopped; finished work is kept")
    assert "Traceback" not in process.said
    assert (out / "runs/tinted/dog/0/checkpoint/manifest.json").is_file()
    # The batch in hand was finished: four images, and as many or more after it.
    (journal,) = out.glob("runs/tinted/dog/0/.samples.*/.images")
    assert len(journal.read_text().splitlines()) % 4 == 1
    assert not (out / ".leases").exists()


def test_a_second_ctrl_c_leaves_at_once_and_damages_nothing(
    tmp_path: Path, suite: Suite, suite_file: Path, plugin_folder: Path
) -> None:
    out = tmp_path / "out"
    process = start(suite_file, plugin_folder, out, pause=2.0)
    wait_for(out, "runs/tinted/dog/0/.samples.*/jungle/0.png", process)
    begin = time.monotonic()
    process.signal(signal.SIGINT)
    time.sleep(0.3)
    process.signal(signal.SIGINT)
    assert process.end() == 130
    assert time.monotonic() - begin < 5
    run(suite, out, subjects="dog")
    assert not leftovers(out)
