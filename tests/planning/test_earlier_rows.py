"""Rows that another call made in a folder do not stop this one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.planning.build import make_plan, recorded_plan
from dbbench.planning.request import make_request
from dbbench.running.workspace import Workspace
from dbbench.storage.record import Selection

METHOD = '''
from pydantic import BaseModel


class Painter:
    """Paints."""

    name = "painter"
    needs_prior = False

    class Settings(BaseModel):
        size: int = 3

    def __init__(self, settings=None):
        self.settings = settings or self.Settings()

    def fit(self, concept, backbone, *, seed, progress): ...

    def generate(self, checkpoint, prompts, class_noun, backbone, *, seeds, sample): ...
'''


def enter(out: Path, *, methods: list[str] | None = None, suite: str = "mini") -> None:
    """Write suite.json as a call does that has just begun."""
    request = make_request(suite, device="cpu", subjects="dog", methods=methods, out=str(out))
    plan = make_plan(request, "cpu")
    selection = Workspace(out).selection().join(request.runs, request.dataset)
    Workspace(out).enter(plan, selection, "cpu")


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    path = tmp_path / "painter.py"
    path.write_text(METHOD)
    return path


def dry_run(out: Path, *options: str) -> str:
    command = ["run", "--suite", "mini", "--subjects", "dog", "--out", str(out), "--dry-run"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu", *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_method_from_a_file_is_remembered_with_its_file(tmp_path: Path, painter: Path) -> None:
    enter(tmp_path / "out", methods=[f"{painter}:Painter"])
    assert "dreambooth" in dry_run(tmp_path / "out")
    enter(tmp_path / "out")
    plan, runs = recorded_plan(tmp_path / "out")
    assert plan.suite.method_files == {"painter": f"{painter}:Painter"}
    assert {run.method for run in runs} == {"painter", "dreambooth", "textual_inversion"}
    assert plan.kept == {}


def test_a_file_that_is_gone_is_kept_and_does_not_run(tmp_path: Path, painter: Path) -> None:
    enter(tmp_path / "out", methods=[f"{painter}:Painter"])
    painter.unlink()
    line = "kept: painter of an earlier call"
    assert line in dry_run(tmp_path / "out")
    enter(tmp_path / "out")
    status = CliRunner().invoke(app, ["status", str(tmp_path / "out")])
    assert status.exit_code == 0, status.output
    assert line in status.output
    _, runs = recorded_plan(tmp_path / "out")
    assert {run.method for run in runs} == {"dreambooth", "textual_inversion"}
    assert "painter" in Workspace(tmp_path / "out").selection().methods


def test_a_renamed_row_is_remembered_as_it_was(tmp_path: Path) -> None:
    def suite(row: str) -> str:
        path = tmp_path / "my.toml"
        path.write_text(
            f'extends = "mini"\nname = "my"\n[methods.{row}]\nbase = "dreambooth"\nsteps = 7\n'
        )
        return str(path)

    enter(tmp_path / "out", methods=["fast"], suite=suite("fast"))
    enter(tmp_path / "out", methods=["quick"], suite=suite("quick"))
    plan, _ = recorded_plan(tmp_path / "out")
    assert plan.suite.row("fast").plugin == plan.suite.row("quick").plugin == "dreambooth"
    assert plan.suite.methods["fast"] == plan.suite.methods["quick"]


def test_a_selection_without_a_row_keeps_the_others() -> None:
    selection = Selection(("dog",), ("a", "b"), (0,))
    assert selection.without(["a"]) == Selection(("dog",), ("b",), (0,))
