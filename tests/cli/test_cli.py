from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401
from rich.console import Console

from dbbench import cli, device
from dbbench.planning.task import Task
from dbbench.running.display.clock import Clock
from dbbench.running.display.progress import JsonProgress, LiveProgress, PlainProgress
from dbbench.suites.runs import Run
from dbbench.units import duration, per_second

# ruff: noqa: F811 - fixtures are imported by name


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def dbbench(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """Call the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["dbbench", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["list", "subjects"],
        ["list", "prompts"],
        ["list", "suites"],
        ["list", "methods"],
        ["list", "metrics"],
        ["list", "encoders"],
        ["run", "--suite", "mini", "--subjects", "dog,teapot", "--dry-run"],
    ],
)
def test_what_only_tells_does_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from dbbench.cli import main\n"
        f"sys.argv = ['dbbench', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'timm', 'open_clip', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir())


def test_the_lists_are_complete(dbbench: Call) -> None:
    assert "teapot" in dbbench("list", "subjects").out
    assert len(dbbench("list", "subjects").out.splitlines()) == 31
    prompts = dbbench("list", "prompts").out
    assert "cobblestone-street" in prompts
    assert "{token} {class_noun}" in prompts
    for what, name in [
        ("suites", "paper"), ("methods", "textual_inversion"), ("metrics", "clip-t"),
        ("encoders", "open_clip"),
    ]:  # fmt: skip
        assert name in dbbench("list", what).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "subject"], 'unknown list "subject"; did you mean "subjects"?'),
        (["run", "--suite", "minni"], 'unknown suite "minni"; did you mean "mini"?'),
        (["run", "--suite", "mini", "--subjects", "teapott"], 'did you mean "teapot"?'),
        (["run", "--suite", "mini", "--methods", "dreamboth"], 'did you mean "dreambooth"?'),
        (["run", "--suite", "mini", "--methods", ","], 'no name in --methods ","'),
        (["run", "--suite", "mini", "--seeds", "0,x"], '"x" is no seed'),
        (["run", "--suite", "mini", "--seeds", "-1"], '"-1" is no seed'),
        (["run", "--suite", "mini", "--device", "gpu"], 'unknown device "gpu"'),
        (["run", "--suite", "mini", "--set", "smaple.steps=3"], 'did you mean "sample"?'),
        (["run", "--suite", "mini", "--set", "train.stpes=3"], 'did you mean "train.steps"?'),
        (["run", "--suite", "mini", "--set", "train.stpes=3", "--dry-run"], '"train.steps"?'),
        (["run", "--suite", "mini", "--together", "2", "--jobs-per-device", "2"], "one process"),
        (["run", "--suite", "paper"], "needs the photographs"),
        (["run", "--suite", "paper", "--data", "none"], "dbbench data fetch"),
        (["run", "--suite", "paper", "--data", "."], "is not the DreamBooth data set"),
        (["data", "verify", "none"], "dbbench data fetch"),
        (["report", "none"], "none"),
        (["report"], "no results in results/"),
        (["status"], "no results in results/"),
        (["status", "none"], "none holds no results"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy_and_exit_code_2(
    dbbench: Call, arguments: list[str], message: str
) -> None:
    said = dbbench(*arguments)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize(("devices", "suite_name"), [(1, "paper"), (0, "mini")])
def test_the_default_suite_is_said_with_its_reason(
    dbbench: Call, monkeypatch: pytest.MonkeyPatch, devices: int, suite_name: str,
    make_photos: Callable[[Path], object],
) -> None:  # fmt: skip
    monkeypatch.setattr(device, "cuda_devices", lambda: devices)
    make_photos(Path("photos"))
    data = ["--data", "photos"] if devices else []
    said = dbbench("run", "--subjects", "dog", "--dry-run", *data)
    assert said.code == 0, said.err
    line = said.out.splitlines()[0]
    assert line.startswith(f"suite {suite_name}, because there is ")
    assert "CUDA device" in line
    assert "--suite" in line


@pytest.mark.parametrize("suite_name", ["mini", "prior-ablation"])
def test_a_suite_that_was_asked_for_needs_no_reason_of_the_device(
    dbbench: Call, monkeypatch: pytest.MonkeyPatch, suite_name: str
) -> None:
    monkeypatch.setattr(device, "cuda_devices", lambda: 0)
    on = ["--on", "mini"] if suite_name != "mini" else []
    said = dbbench("run", "--suite", suite_name, *on, "--subjects", "dog", "--dry-run")
    assert "because" not in said.out.splitlines()[0]
    if on:
        said = dbbench("run", "--suite", suite_name, "--subjects", "dog", "--dry-run")
        assert "because there is no CUDA device" in said.out.splitlines()[0]


@pytest.mark.parametrize("suite_name", ["sd21", "sdxl", "sd3"])
def test_a_card_is_no_reason_for_a_suite_that_was_asked_for(
    dbbench: Call, monkeypatch: pytest.MonkeyPatch, suite_name: str,
    make_photos: Callable[[Path], object],
) -> None:  # fmt: skip
    monkeypatch.setattr(device, "cuda_devices", lambda: 1)
    make_photos(Path("photos"))
    asked = ["--suite", suite_name, "--subjects", "dog", "--data", "photos"]
    said = dbbench("run", *asked, "--dry-run")
    assert said.code == 0, said.err
    assert said.out.startswith(f"suite {suite_name}: ")


def test_a_dry_run_shows_what_is_to_do_and_makes_nothing(dbbench: Call) -> None:
    said = dbbench("run", "--suite", "mini", "--subjects", "dog,dog2,can", "--dry-run")
    assert "to do: 3 references, 2 prior, 6 train, 6 sample, 9 encode" in said.out
    assert "600 images" in said.out
    assert not list(Path().iterdir())


def test_a_run_is_reported_and_a_second_call_says_that_there_is_nothing_to_do(
    dbbench: Call, installed: None, suite_file: Path
) -> None:
    command = ["run", "--suite", suite_file, "--subjects", "dog", "--device", "cpu"]
    first = dbbench(*command)
    assert first.code == 0, first.err
    assert "into results/tiny" in first.out
    assert "tinted" in first.out
    assert "report: results/tiny/report/index.html" in first.out
    second = dbbench(*command)
    assert second.code == 0
    assert "nothing to do: results/tiny is complete" in second.out
    assert len(second.out.splitlines()) == 2
    status = dbbench("status")
    assert "2 of 2 runs finished; the leaderboard is up to date" in status.out
    assert dbbench("report").code == 0
    assert "nothing to do" in dbbench(*command).out
    plan = dbbench(*command, "--dry-run", "--set", "sample.steps=3")
    assert "to do: 2 sample, 2 encode" in plan.out


def test_a_failed_run_is_listed_with_its_log_and_exit_code_1(
    dbbench: Call, installed: None, suite_file: Path
) -> None:
    said = dbbench(
        "run", "--suite", suite_file, "--subjects", "dog", "--set", "methods.tinted.fail_on=dog"
    )
    assert said.code == 1
    assert "1 failed; rerun the same command to repeat them:" in said.err
    assert "train tinted/dog/0: RuntimeError: cannot learn dog (see results/tiny/logs/" in said.err
    status = dbbench("status")
    assert "failed: RuntimeError: cannot learn dog" in status.out
    assert "1 of 2 runs finished" in status.out


def test_photographs_stand_in_for_drawn_subjects(
    dbbench: Call, installed: None, suite_file: Path, photographs: Path
) -> None:
    said = dbbench(
        "run", "--suite", suite_file, "--subjects", "dog", "--methods", "plain", "--data",
        photographs,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "into results/tiny-photos" in said.out
    document = json.loads(Path("results/tiny-photos/references/dog/references.json").read_text())
    assert document["images"][0]["truth"] is None
    assert "Unsplash" in document["images"][0]["credit"] or document["images"][0]["credit"]


TASKS = [
    Task(stage, f"{method}/colorful_sneaker/0", (), Run(method, "colorful_sneaker", 0))
    for method in ("dreambooth", "textual_inversion")
    for stage in ("train", "sample")
]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_bars_fit_the_terminal(width: int) -> None:
    console = Console(width=width, record=True, force_terminal=True, legacy_windows=False)
    progress = LiveProgress(console, TASKS)
    progress.begin(TASKS[3], 12, 60)
    progress.advance(40, 100, "loss 0.123")
    with console.capture() as capture:
        console.print(progress.live.get_renderable())
    lines = [Console(width=300).render_str(line) for line in capture.get().splitlines()]
    plain = [str(line.plain) for line in map(type(lines[0]).from_ansi, capture.get().splitlines())]
    assert len(plain) == 2
    assert all(len(line) <= width for line in plain)
    assert "run 12 of 60" in plain[0]
    assert "sample textual_inve" in plain[1]
    assert "40/100" in plain[1]


def test_without_a_terminal_there_is_a_line_for_each_task() -> None:
    console = Console(width=200, force_terminal=False)
    progress = PlainProgress(console, TASKS)
    with console.capture() as capture:
        progress.begin(TASKS[0], 1, 2)
        progress.advance(5, 10, "")
        progress.end("10 steps in 1.0 s")
    expected = "[1/4] train dreambooth/colorful_sneaker/0: 10 steps in 1.0 s"
    assert capture.get().strip().startswith(expected)


def test_with_json_each_line_is_an_object_that_says_who_did_what() -> None:
    console = Console(width=40, force_terminal=False)
    progress = JsonProgress(console, TASKS)
    with console.capture() as capture:
        for number, worker in enumerate("ab"):
            progress.begin(TASKS[number], 1, 2, worker)
        progress.advance(5, 10, "loss 0.1", "a")
        progress.note("[a note] with brackets")
        progress.end("10 images", "b")
    lines = [json.loads(line) for line in capture.get().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "begin", "note", "end"]
    assert lines[2]["text"] == "[a note] with brackets"
    assert (lines[3]["stage"], lines[3]["worker"], lines[3]["finished"]) == ("sample", "b", 1)


def test_each_worker_has_a_bar_of_its_own() -> None:
    console = Console(width=100, force_terminal=True, legacy_windows=False)
    progress = LiveProgress(console, TASKS)
    for number, worker in enumerate("abc"):
        progress.begin(TASKS[number], number + 1, 4, worker)
    progress.advance(3, 10, "", "b")
    progress.end("done", "a")
    with console.capture() as capture:
        console.print(progress.live.get_renderable())
    lines = capture.get().splitlines()
    assert len(lines) == 3
    assert "3/10" in lines[1]
    assert "train textual" in lines[2]


def test_the_time_left_is_what_like_tasks_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("dbbench.running.display.clock.time.monotonic", lambda: now)
    clock = Clock(TASKS)
    clock.begin(TASKS[0])
    assert clock.left is None
    now = 10.0
    clock.end(TASKS[0])
    assert clock.left is None  # Nothing was sampled yet.
    clock.begin(TASKS[1])
    now = 30.0
    clock.end(TASKS[1])
    clock.begin(TASKS[2])
    assert clock.left == pytest.approx(10 + 20)
    now = 35.0
    clock.advance(1, 2)
    assert clock.left == pytest.approx(5 + 20)


def test_a_rate_is_said_without_powers_of_ten() -> None:
    said = {1642.3: "1,642", 123.4: "123", 12.34: "12.3", 0.523: "0.52", 0.00519: "0.0052"}
    assert {rate: per_second(rate) for rate in said} == said


def test_a_duration_is_said_in_the_unit_that_fits() -> None:
    said = [duration(seconds) for seconds in (5, 59, 61, 3700, 90000)]
    assert said == ["5 s", "59 s", "1 min", "1 h 02 min", "1 d 1 h"]
