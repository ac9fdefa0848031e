"""A third party's method and metric run: as an installed package, and as a file by its path."""

from __future__ import annotations

import ensurepip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401

from dbbench import plugins as plugin
from dbbench.errors import UserError
from dbbench.planning.build import recorded_plan
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

PACKAGE = Path(__file__).parent / "third_party"
FILE = PACKAGE / "dbbench_class_noun.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("third-party")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pyc*"))
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    command = [
        sys.executable, pip / "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--target", folder / "site", source,
    ]  # fmt: skip
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / "site"


@pytest.fixture
def package(site: Path, monkeypatch: pytest.MonkeyPatch, installed: None) -> None:
    monkeypatch.syspath_prepend(site)
    plugin._points.cache_clear()


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_method_files", {})


def test_an_installed_method_and_metric_run_and_are_scored(
    suite: Suite, package: None, tmp_path: Path
) -> None:
    outcome = run(
        suite, tmp_path / "out", "metrics=['dino', 'nearest']", subjects="can",
        methods=["class_noun"],
    )  # fmt: skip
    assert outcome.failures == []
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    ours = scores[scores["method"] == "class_noun"].set_index("metric")["value"]
    assert len(ours) == 2 * 25
    assert ours["nearest"].mean() > ours["dino"].mean()  # a maximum is above its mean
    assert "class_noun" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert plugin.provenance("methods", "class_noun") == (
        "dbbench_class_noun:ClassNoun (dbbench-class-noun 0.1.0)"
    )


def test_the_command_finds_an_installed_package(site: Path) -> None:
    dbbench = Path(sys.executable).with_name("dbbench")
    listed = subprocess.run(
        [dbbench, "list", "methods"], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert "class_noun" in listed.stdout
    assert "The class noun alone" in listed.stdout


def test_a_method_runs_from_a_file(suite: Suite, tmp_path: Path) -> None:
    name = plugin.add_method_file(f"{FILE}:ClassNoun")
    with_file = suite.model_copy(update={"method_files": {name: f"{FILE}:ClassNoun"}})
    out = tmp_path / "out"
    assert run(with_file, out, subjects="can", methods=[name]).failures == []
    assert len(list((out / "runs" / "class_noun" / "can" / "0" / "samples").glob("*/0.png"))) == 25
    assert run(with_file, out, subjects="can", methods=[name]).done == 0

    plugin._method_files.clear()  # as in another process, which has the folder alone
    plan, runs = recorded_plan(out)
    assert [run.method for run in runs] == ["class_noun"]
    assert plan.samples(runs[0]).complete


def test_a_changed_file_is_run_again(suite: Suite, tmp_path: Path) -> None:
    file = Path(shutil.copy(FILE, tmp_path / "mine.py"))
    with_file = suite.model_copy(update={"method_files": {"class_noun": f"{file}:ClassNoun"}})
    call = {"subjects": "can", "methods": ["class_noun"]}
    run(with_file, tmp_path / "out", **call)
    file.write_text(file.read_text().replace('adjective: str = ""', 'adjective: str = "red"'))
    assert run(with_file, tmp_path / "out", **call).done >= 3
    checkpoint = tmp_path / "out" / "runs" / "class_noun" / "can" / "0" / "checkpoint"
    document = json.loads((checkpoint / "checkpoint.json").read_text())
    assert document["metadata"] == {"adjective": "red"}


@pytest.mark.parametrize(
    ("content", "reference", "message"),
    [
        ("", "{file}", "write it as path/to/file.py:Class"),
        ("", "{file}x.py:A", "the method file .* does not exist"),
        ("", "{file}:A", "has no class A"),
        ("import no_such_package", "{file}:A", "cannot be imported .*no_such_package"),
        ("class A: name = 'a'", "{file}:A", "is no method: it has no Settings, needs_prior, fit"),
        (
            "class A:\n name = 'dreambooth'\n Settings = needs_prior = fit = generate = 0",
            "{file}:A",
            "like an installed method",
        ),
    ],
)
def test_a_file_that_is_no_method_is_one_line(
    tmp_path: Path, content: str, reference: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        plugin.add_method_file(reference.format(file=file))


def test_the_documentation_includes_the_whole_file(repository: Path) -> None:
    page = (repository / "docs/methods.md").read_text("utf-8")
    included = re.findall(r'^--8<-- "(.+)"$', page, re.MULTILINE)
    assert FILE.relative_to(repository).as_posix() in included
