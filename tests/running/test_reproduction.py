"""`dbbench reproduce`: all suites of the paper, sharing what they can, on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from finished_run import Page
from harness import contents, installed, plugin_folder, suite, suite_file, written  # noqa: F401
from rich.console import Console
from typer.testing import CliRunner, Result

from dbbench import plugins as plugin
from dbbench.cli import app
from dbbench.errors import UserError
from dbbench.mini.source import MiniWorld
from dbbench.planning.build import make_plan
from dbbench.planning.request import Request
from dbbench.reports import write_report
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.running.sharing import without_shared
from dbbench.storage.events import EventLog
from dbbench.suites.inheritance import PAPER
from dbbench.suites.runs import plan_runs
from dbbench.suites.suite import Suite, load_suite, override

TABLE = """
[table]
title = "Table of {name}"
source = "nowhere"
[[table.claims]]
text = "{first} is above {second} (DINO)"
metric = "dino"
first = "{first}"
second = "{second}"
"""
ROWS = {
    "one": "{ tinted = {}, plain = {} }",
    "two": "{ tinted = {}, plain = {} }",
    "three": '{ same = { base = "tinted" }, few = { base = "tinted", prior_images = 1 } }',
}


def call(out: Path, suites: str, *more: str) -> Result:
    options = [f"--out={out}", "--subjects=dog", "--device=cpu", *more]
    done = CliRunner().invoke(app, ["reproduce", f"--suites={suites}", *options])
    if isinstance(done.exception, UserError):
        raise done.exception
    return done


@dataclass(frozen=True)
class Three:
    """Three suites, of which the second lacked the weights of an encoder at first."""

    out: Path
    files: str
    second: Path
    said: Result


@pytest.fixture(scope="module")
def three(
    plugin_folder: Path,  # noqa: F811
    suite_file: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("reproduce")
    rows = "{ tinted = {}, plain = {} }"
    for name, own in ROWS.items():
        text = suite_file.read_text().replace('"tiny"', f'"{name}"').replace(rows, own)
        first, second = ("same", "few") if name == "three" else ("tinted", "plain")
        text += TABLE.format(name=name, first=first, second=second)
        (folder / f"{name}.toml").write_text(text)
    second = folder / "two.toml"
    whole = second.read_text()
    second.write_text(whole.replace("pixels:4", "timm:vit_small_patch16_224.dino@/nowhere.pth"))
    files = ",".join(str(folder / f"{name}.toml") for name in ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin_folder)
        plugin._points.cache_clear()
        said = call(folder / "out", files)
        second.write_text(whole)
        yield Three(folder / "out", files, second, said)
    plugin._points.cache_clear()


def inode(*parts: object) -> int:
    return Path(*map(str, parts)).stat().st_ino


def test_a_suite_that_fails_stops_no_other_and_is_named(three: Three) -> None:
    assert three.said.exit_code == 1
    assert "1 of 3 suites are not complete" in three.said.stderr
    assert "two: " in three.said.stderr
    assert "/nowhere.pth" in three.said.stderr
    assert "tinted is above plain (DINO): not decidable" in three.said.stdout
    assert "same is above few (DINO): not decidable" in three.said.stdout


def test_what_suites_have_in_common_is_made_once(three: Three) -> None:
    one, other = three.out / "one", three.out / "three"
    for file in (
        "references/dog/00.png",
        "prior/dog/0000.png",
        "features/real/dog/dino/images.npy",
    ):
        assert inode(one, file) == inode(other, file)
    file = "dog/0/checkpoint/checkpoint.json"
    assert inode(one, "runs/tinted", file) == inode(other, "runs/same", file)
    events = EventLog(other).read()
    done = [f"{event['stage']} {event.get('name')}" for event in events]
    assert "train few/dog/0" in done
    assert not {"train same/dog/0", "prior dog", "references dog"} & set(done)


def test_the_same_command_goes_on_with_what_is_missing(three: Three) -> None:
    page = Page(three.out / "index.html")
    assert "Missing here: two: " in page.text
    assert "Table of one" in page.text
    before = written(three.out / "one"), written(three.out / "three")
    done = call(three.out, three.files)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("nothing to do") == 2
    assert before == (written(three.out / "one"), written(three.out / "three"))
    page = Page(three.out / "index.html")
    assert "Missing here" not in page.text
    assert "Table of two" in page.text


def test_a_dry_run_counts_what_is_shared_once(tmp_path: Path) -> None:
    done = call(tmp_path / "out", ",".join(PAPER), "--on=mini", "--dry-run")
    assert done.exit_code == 0, done.output
    words = [line.split() for line in done.stdout.splitlines() if line.strip()]
    lines = {first: rest[:4] for first, *rest in words}
    assert lines["table1-mini"] == ["2", "1", "2", "2"]
    # Of two rows, one is trained as in table 1, with the same class images.
    assert lines["identifier-mini"] == ["2", "0", "1", "2"]
    # One training is looked into four times.
    assert lines["steps-mini"] == ["5", "0", "1", "5"]
    totals = [sum(int(lines[f"{name}-mini"][column]) for name in PAPER) for column in range(4)]
    assert lines["total"] == list(map(str, totals))
    assert not (tmp_path / "out").exists()


def test_the_options_of_a_run_reach_every_suite(three: Three, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    files = ",".join(three.files.split(",")[:2])
    settings = "--log-json", "--retries=0", "--tracker=tensorboard"
    done = call(tmp_path, files, *settings, "--set=methods.tinted.fail_on=dog")
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    told = [json.loads(line) for line in lines]
    assert [e["suite"] for e in told if e["event"] == "suite"] == ["one", "two"]
    assert {e["name"] for e in told if e["event"] == "end" and e["stage"] == "train"} == {
        "plain/dog/0", "tinted/dog/0"
    }  # fmt: skip
    # What can be learned is taken over from the first suite; what failed was not tried again.
    for name, expected in (("one", ["done", "failed"]), ("two", ["failed"])):
        events = [e for e in EventLog(tmp_path / name).read() if e["stage"] == "train"]
        assert sorted(e["status"] for e in events) == expected
    assert list((tmp_path / "one/tracking/plain/dog/0").iterdir())


def test_wrong_input_is_said_before_anything_is_run(tmp_path: Path) -> None:
    for option, message in (
        ("--set=train.stepps=3", "train.stepps"),
        ("--on=moni", 'did you mean "mini"'),
        ("--subjects=dgo", 'did you mean "dog"'),
        ("--save-every=often", '"often" is no interval'),
        ("--out=s3://bucket/x", "needs a local folder: choose another --out, or call dbbench run"),
    ):
        with pytest.raises(UserError, match=message):
            call(tmp_path / "out", "table1,steps", option)
    with pytest.raises(UserError, match='unknown suite "table2"; did you mean "table1"'):
        call(tmp_path / "out", "table2")
    assert not (tmp_path / "out").exists()


def test_a_damaged_artifact_is_not_taken_over(suite: Suite, tmp_path: Path) -> None:  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    runs = plan_runs(suite, ["dog"], ["tinted"])

    def do(out: Path, *others: Path) -> None:
        dataset, quiet = MiniWorld(), Console(quiet=True)
        assert not execute(
            Request(suite, out, dataset, runs),
            options=RunOptions("cpu"),
            console=quiet,
            publish=write_report,
            others=others,
        ).failures

    do(one)
    image = one / "references/dog/00.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:-1] + b"x")
    do(two, one)
    assert (two / "references/dog/00.png").read_bytes() == whole
    assert inode(two, "prior/dog/0000.png") == inode(one, "prior/dog/0000.png")
    assert contents(two, "runs/**/*.png") == contents(one, "runs/**/*.png")


def test_what_is_left_of_a_second_suite_is_what_differs(tmp_path: Path) -> None:
    seen: set[str] = set()
    left = []
    for name in ("table1", "identifier"):
        chosen = override(load_suite(name, "mini"), ["prior.count=2"])
        runs = plan_runs(chosen, ["dog"])
        plan = make_plan(Request(chosen, tmp_path / name, MiniWorld(), runs), "cpu")
        plan.identities.resolve_methods(run.method for run in runs)
        left.append({task.key for task in without_shared(plan.tasks(runs), seen)})
    assert "prior dog" in left[0]
    assert "train dreambooth/dog/0" in left[0]
    assert {key for key in left[1] if key.startswith(("train", "prior", "references"))} == {
        "train common-word/dog/0"
    }
