"""Several processes on one folder: nothing is done twice, nothing is damaged, all end."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections import Counter
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
)
from rich.console import Console

from dbbench.cli.status import print_verified as verify
from dbbench.storage.events import EventLog
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

PAUSES = ("methods.tinted.pause=0.01", "methods.plain.pause=0.01")


def done(out: Path) -> Counter[tuple[str, str]]:
    """Count how often each stage was done."""
    events = EventLog(out).read()
    return Counter((e["stage"], e.get("name", "")) for e in events if e.get("status") == "done")


def test_four_processes_do_no_stage_twice_and_end_like_one(
    tmp_path: Path, suite: Suite, suite_file: Path, plugin_folder: Path
) -> None:
    run(suite, tmp_path / "alone", *PAUSES)
    out = tmp_path / "shared"
    processes = [start(suite_file, plugin_folder, out, pause=0.01) for _ in range(4)]
    assert [process.end() for process in processes] == [0] * 4, [p.said for p in processes]
    assert set(done(out).values()) == {1}
    assert done(out) == done(tmp_path / "alone")
    assert contents(out) == contents(tmp_path / "alone")
    tables = [pd.read_parquet(o / "scores.parquet") for o in (out, tmp_path / "alone")]
    assert tables[0].equals(tables[1])
    leaderboards = [(o / "leaderboard.csv").read_bytes() for o in (out, tmp_path / "alone")]
    assert leaderboards[0] == leaderboards[1]
    assert not (out / ".leases").exists()


def test_what_a_killed_process_was_at_is_taken_over_by_another(
    tmp_path: Path, suite: Suite, suite_file: Path, plugin_folder: Path
) -> None:
    out = tmp_path / "out"
    killed = start(suite_file, plugin_folder, out)
    wait_for(out, "runs/tinted/dog/0/.samples.*/beach/0.png", killed)
    other = start(suite_file, plugin_folder, out)
    wait_for(out, "runs/plain/dog/0/.samples.*/jungle/0.png", other)
    killed.signal(signal.SIGKILL)
    assert (killed.end(), other.end()) == (-signal.SIGKILL, 0), other.said
    assert set(done(out).values()) == {1}
    assert not leftovers(out)


def test_a_call_with_other_settings_waits_for_the_first_to_end(
    tmp_path: Path, suite: Suite, suite_file: Path, plugin_folder: Path
) -> None:
    out = tmp_path / "out"
    first = start(suite_file, plugin_folder, out)
    wait_for(out, "runs/tinted/dog/0/.samples.*/jungle/0.png", first)
    second = start(suite_file, plugin_folder, out, "--set", "sample.guidance=2")
    assert (second.end(), first.end()) == (0, 0), second.said
    assert "with other settings" in second.said
    sampled = [count for (stage, _), count in done(out).items() if stage == "sample"]
    assert sampled == [2] * 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def out(tmp_path: Path, finished: Path, suite: Suite) -> Path:
    if not finished.is_dir():
        run(suite, finished)
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = [
    "references/dog/00.png",
    "prior/dog/0001.png",
    "runs/tinted/can/0/checkpoint/checkpoint.json",
    "runs/plain/dog/0/samples/jungle/0.png",
    "runs/plain/dog/0/features/clip/texts.npy",
    "features/real/dog/dino/images.npy",
]


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_found_by_verify_and_mended_by_the_next_run(
    out: Path, suite: Suite, file: str
) -> None:
    before, events = contents(out), done(out)
    assert verify(out, Console(quiet=True))
    flip(out / file)
    console = Console(record=True, width=200, quiet=True)
    assert not verify(out, console)
    run(suite, out)
    assert contents(out) == before
    assert (done(out) - events).total() == 1
    assert verify(out, Console(quiet=True))


def test_verify_names_the_file_and_says_what_is_wrong_with_it(out: Path) -> None:
    flip(out / FILES[3])
    (out / FILES[0]).write_bytes(b"short")
    console = Console(record=True, width=200, file=io.StringIO())
    verify(out, console)
    said = console.export_text()
    assert "jungle/0.png has changed since it was written" in said
    assert "00.png has 5 bytes of" in said
    assert "2 damaged, 0 stale, 0 missing" in said


@pytest.mark.parametrize("file", ["scores.parquet", "leaderboard.csv", "leaderboard.parquet"])
def test_a_flipped_byte_in_scores_is_mended_by_scoring_again(
    out: Path, suite: Suite, file: str
) -> None:
    names = ("scores.parquet", "leaderboard.csv", "leaderboard.md")
    before, events = contents(out, *names), done(out)
    flip(out / file)
    run(suite, out)
    assert contents(out, *names) == before
    assert done(out) - events == {("score", ""): 1}


@pytest.mark.parametrize("file", FILES[-2:])
def test_no_score_is_made_of_features_with_a_flipped_byte(
    out: Path, suite: Suite, file: str
) -> None:
    table = pd.read_parquet(out / "scores.parquet")
    flip(out / file)
    (out / "scores.json").unlink()
    run(suite, out)
    assert pd.read_parquet(out / "scores.parquet").equals(table)


def test_a_record_with_another_letter_in_it_is_refused_in_one_line(out: Path, suite: Suite) -> None:
    from dbbench.errors import UserError

    record = json.loads((out / "suite.json").read_text())
    record["selection"]["subjects"][0] = "cam"
    (out / "suite.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"suite.json is damaged; remove that file"):
        run(suite, out)
