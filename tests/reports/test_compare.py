"""Two runs side by side: what changed, where, and how it looks."""

from pathlib import Path

import pytest
from finished_run import BANNER, DOGS, MakeRun, Page
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.errors import UserError
from dbbench.reports.compare import compare_runs


def test_differences_are_second_minus_first_overall_and_by_category(make_run: MakeRun):
    one = make_run(name="one", subjects=DOGS, spread=0.01)
    two = make_run(name="two", subjects=DOGS, spread=0.01, level={"dreambooth": 0.05})
    dreambooth, inversion = compare_runs(one, two)
    assert dreambooth.methods == ("dreambooth", "dreambooth")
    overall = next(c for c in dreambooth.changes if c.category == "all")
    assert overall.metric.name == "dino"
    assert overall.found.mean == pytest.approx(-0.05, abs=0.02)
    assert {c.category for c in dreambooth.changes} == {"all", "recontextualization"}
    unchanged = next(c for c in inversion.changes if c.category == "all")
    assert abs(unchanged.found.mean) < 0.02
    sizes = [abs(moved.second - moved.first) for moved in dreambooth.moved]
    assert sizes == sorted(sizes, reverse=True)


def test_the_page_shows_both_runs_beside_the_references(make_run: MakeRun, tmp_path: Path):
    one, two = make_run(name="one"), make_run(name="two", level={"dreambooth": 0.05})
    out = tmp_path / "moved"
    result = CliRunner().invoke(app, ["compare", str(one), str(two), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert BANNER in result.output
    page = Page(out / "index.html")
    pictures = [file for file in page.files if not file.startswith("..")]
    assert all((out / file).is_file() for file in pictures)
    assert {file.split("/")[0] for file in pictures} == {"a", "b"}
    assert BANNER in page.text
    assert "photo by 1 (CC0)" in page.text


def test_a_run_against_itself_moves_nothing_and_a_half_one_says_so(make_run: MakeRun):
    whole, half = make_run(name="whole"), make_run(name="half", skip=(("dreambooth", "dog"),))
    result = CliRunner().invoke(app, ["compare", str(whole), str(half)])
    assert result.exit_code == 0, result.output
    assert result.output.count("no subject changed") == 2
    assert "half is not finished (dreambooth: 1/2 subjects)" in result.output
    assert "whole is not finished" not in result.output


def test_runs_in_folders_of_one_name_are_told_apart(make_run: MakeRun):
    one, two = make_run(name="before/run"), make_run(name="after/run")
    title = compare_runs(one, two)[0].title
    assert title == "after/run: dreambooth minus before/run: dreambooth"


def test_runs_that_share_nothing_are_refused_by_name(make_run: MakeRun):
    one = make_run(name="one", methods=("dreambooth", "x"))
    two = make_run(name="two", methods=("y", "z"))
    with pytest.raises(UserError, match="no method is in both"):
        compare_runs(one, two)
    paper = make_run(name="paper", banner=None)
    with pytest.raises(UserError, match="cannot be compared; they differ in"):
        compare_runs(one, paper)
