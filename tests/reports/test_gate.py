"""The gate sees a loss in every training, lets noise pass, and says so in three forms."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from finished_run import BANNER, DOGS, MakeRun
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.errors import UserError
from dbbench.reports.gate import BASELINE_VERSION, baseline_of, check
from dbbench.reports.results import load_results


def call(*arguments: object):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def one(make: MakeRun, **options) -> Path:
    return make(methods=("dreambooth",), subjects=DOGS, **options)


def test_an_unchanged_run_passes_and_a_worse_one_fails_with_a_table(make_run: MakeRun, tmp_path):
    baseline = tmp_path / "baseline.json"
    good = one(make_run, name="good", spread=0.02)
    assert call(good, "--against", baseline, "--update").exit_code == 0
    assert call(good, "--against", baseline).exit_code == 0
    worse = one(make_run, name="good", spread=0.02, level={"dreambooth": 0.03})
    files = (tmp_path / "gate.xml", tmp_path / "gate.md")
    result = call(worse, "--against", baseline, "--junit", files[0], "--summary", files[1])
    assert result.exit_code == 1
    assert "REGRESSED" in result.output
    suite = ElementTree.parse(files[0]).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    assert "3 of 3 regressed" in files[1].read_text()
    assert BANNER in files[1].read_text()
    assert BANNER in result.output


def test_a_better_run_passes(make_run: MakeRun, tmp_path):
    baseline = tmp_path / "baseline.json"
    call(one(make_run), "--against", baseline, "--update")
    assert call(one(make_run, level={"dreambooth": -0.1}), "--against", baseline).exit_code == 0


def test_a_certain_but_small_loss_can_be_tolerated(make_run: MakeRun, tmp_path):
    baseline, tolerance = tmp_path / "baseline.json", tmp_path / "tolerance.toml"
    call(one(make_run), "--against", baseline, "--update")
    tolerance.write_text("dino = 0.02\nclip-i = 0.02\nclip-t = 0.005\n")
    worse = one(make_run, level={"dreambooth": 0.01})
    result = call(worse, "--against", baseline, "--tolerance", tolerance)
    assert result.exit_code == 1
    assert result.output.count("worse, tolerated") == 2
    tolerance.write_text("dinno = 0.02\n")
    bad = call(worse, "--against", baseline, "--tolerance", tolerance)
    assert isinstance(bad.exception, UserError)
    assert 'unknown metric "dinno"; did you mean "dino"' in str(bad.exception)


def test_noise_alone_hardly_ever_raises_an_alarm(make_run: MakeRun):
    results, rng = load_results(one(make_run)), np.random.default_rng(0)
    alarms = []
    for _ in range(300):
        baseline = baseline_of(results)
        for trainings in baseline["trainings"]["dreambooth"].values():
            trainings |= {name: value + rng.normal(0, 0.1) for name, value in trainings.items()}
        lines = check(results, baseline, {})
        alarms.append(any(line.regressed for line in lines))
        assert not any(line.regressed and line.loss < 0 for line in lines)
    # Half of the false decisions are towards better: 2.5% of 300; more than 18 once in 1,000.
    assert sum(alarms) <= 18


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no baseline"),
        ("{", "is no baseline"),
        ("[]", "is no baseline"),
        (
            json.dumps({"version": BASELINE_VERSION + 1, "trainings": {}}),
            "is a baseline of version",
        ),
    ],
)
def test_a_bad_baseline_is_one_line(make_run: MakeRun, tmp_path, content, message):
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_text(content)
    result = call(one(make_run), "--against", path)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_what_cannot_be_compared_or_seen_is_refused(make_run: MakeRun, tmp_path):
    path = tmp_path / "baseline.json"
    call(one(make_run), "--against", path, "--update")
    other = one(make_run, name="other", suite={"encoders": {"dino": "mini-dino", "clip": "else"}})
    assert "differ in encoders" in str(call(other, "--against", path).exception)
    fewer = make_run(name="fewer", methods=("dreambooth",), subjects=DOGS[:4])
    assert "lacks 5 of 9 trainings" in str(call(fewer, "--against", path).exception)
    call(fewer, "--against", path, "--update")
    assert "4 trainings cannot decide 3 comparisons; 7 trainings can" in str(
        call(fewer, "--against", path).exception
    )
    half = make_run(name="half", skip=(("dreambooth", "dog"),))
    assert "is not finished (dreambooth: 1/2" in str(call(half, "--against", path).exception)
