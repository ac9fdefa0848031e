"""Claims about the data set's seam: what is built in and what a third party brings work alike."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import shapes_plugin
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401

from dbbench import plugins
from dbbench.data.dataset import load_dataset, select_subjects
from dbbench.errors import UserError
from dbbench.planning.build import recorded_plan
from dbbench.planning.verify import verify
from dbbench.reports.results import load_results
from dbbench.suites.suite import Suite, load_suite, on_dataset

# ruff: noqa: F811 - fixtures are imported by name

FILE = Path(shapes_plugin.__file__)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a package with a data set lies installed."""
    folder = tmp_path_factory.mktemp("site")
    information = folder / "shapes_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: shapes-plugin\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text(
        "[dbbench.datasets]\nshapes = shapes_plugin:Shapes\n"
    )
    shutil.copy(FILE, folder)
    return folder


@pytest.fixture
def shapes(site: Path, installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    plugins._points.cache_clear()


def dbbench(*arguments: object, path: tuple[Path, ...]) -> str:
    """Call the command in a process of its own that finds packages in these folders."""
    program = Path(sys.executable).with_name("dbbench")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, env=environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_built_in_data_sets_have_the_same_names_and_classes() -> None:
    photos, mini = load_dataset("photos"), load_dataset("mini")
    assert photos.subjects == mini.subjects
    for subject in photos.subjects:
        assert photos.prompts(subject) == mini.prompts(subject)
        assert photos.fingerprint(subject, 64) != mini.fingerprint(subject, 64)
        assert mini.fingerprint(subject, 64) != mini.fingerprint(subject, 32)


def test_photographs_without_their_folder_tell_how_to_get_them() -> None:
    photos = load_dataset("photos")
    with pytest.raises(UserError, match="dbbench data fetch --out photos"):
        photos.images(photos.subjects[0], 64)


def test_an_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r'unknown dataset "fotos"; did you mean "photos"\?'):
        load_dataset("fotos")


def test_a_suite_on_another_data_set_is_not_compared_with_published_numbers() -> None:
    paper = load_suite("paper")
    changed = on_dataset(paper, "shapes")
    assert (changed.name, changed.source) == ("paper-shapes", "shapes")
    assert "not comparable with published numbers" in str(changed.banner)


def test_an_installed_data_set_is_listed(site: Path) -> None:
    listed = dbbench("list", "datasets", path=(site,))
    for text in ("photos", "mini", "shapes", "a ring and a blob", "shapes-plugin 1.0"):
        assert text in listed


def test_an_installed_data_set_runs_by_its_name(
    site: Path, plugin_folder: Path, suite_file: Path, tmp_path: Path, shapes: None
) -> None:
    out = tmp_path / "out"
    said = dbbench(
        "run", "--suite", suite_file, "--data", "shapes", "--methods", "tinted",
        "--subjects", "blob,ring", "--device", "cpu", "--out", out, path=(site, plugin_folder),
    )  # fmt: skip
    assert "tinted" in said
    record = json.loads((out / "suite.json").read_text())
    assert (record["suite"]["source"], record["source"]) == ("shapes", "shapes")
    assert record["selection"]["subjects"] == ["ring", "blob"]  # the data set's own order
    made = sorted(str(p.relative_to(out)) for p in out.glob("runs/*/*/*/samples/*/*.png"))
    assert made == [
        "runs/tinted/blob/0/samples/asleep/0.png",
        "runs/tinted/blob/0/samples/desk/0.png",
        "runs/tinted/ring/0/samples/desk/0.png",
    ]
    references = json.loads((out / "references/ring/references.json").read_text())["images"]
    assert [entry["truth"] for entry in references] == [{"share": s} for s in (0.9, 0.7, 0.5)]

    board = pd.read_csv(out / "leaderboard.csv").set_index("method")
    assert board.loc["tinted", "subjects"] == 2
    results = load_results(out)
    assert list(results.prompts) == ["desk", "asleep"]
    assert list(results.means_by("subject").index) == ["ring", "blob"]
    plan, runs = recorded_plan(out)
    assert all(plan.samples(run).complete for run in runs)
    assert {each.state for each in verify(out)} == {"done"}


def test_a_suite_names_its_data_set(suite: Suite, shapes: None, tmp_path: Path) -> None:
    settings = ("source=shapes", "metrics=['dino']")
    call = {"subjects": "ring", "methods": ["plain"]}
    assert run(suite, tmp_path / "out", *settings, **call).failures == []
    assert run(suite, tmp_path / "out", *settings, **call).done == 0
    with pytest.raises(UserError, match="choose another --out"):
        run(suite, tmp_path / "out", "metrics=['dino']", subjects="dog", methods=["plain"])


def test_subjects_are_selected_of_the_data_set(shapes: None) -> None:
    dataset = load_dataset("shapes")
    assert [subject.name for subject in select_subjects(dataset, "live,all")] == ["blob", "ring"]
    with pytest.raises(UserError, match=r'unknown subject "rink"; did you mean "ring"\?'):
        select_subjects(dataset, "rink")


def test_the_documentation_includes_the_whole_file(repository: Path) -> None:
    page = (repository / "docs/datasets.md").read_text("utf-8")
    included = re.findall(r'^--8<-- "(.+)"$', page, re.MULTILINE)
    assert FILE.relative_to(repository).as_posix() in included
