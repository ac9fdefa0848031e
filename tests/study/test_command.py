"""`dbbench study` from the run to the tables: simulate, results, export, import, plan."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from study_run import BANNER, write_run
from study_site import Place
from typer.testing import CliRunner

from dbbench import study as study_package
from dbbench.cli import app
from dbbench.errors import UserError
from dbbench.study.analysis.results import analyse_file, analyse_folder, simulated_url
from dbbench.study.analysis.simulate import Crowd, simulate_study
from dbbench.study.analysis.summary import SIMULATED
from dbbench.study.answers.database import open_database
from dbbench.study.answers.store import Store
from dbbench.study.server.web import make_app


def call(*arguments: object) -> str:
    """Call the command; a UserError comes through as it is."""
    done = CliRunner().invoke(app, ["study", *map(str, arguments)], catch_exceptions=False)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study of three methods, answered by simulated raters, some careless, some dropping out."""
    folder = tmp_path_factory.mktemp("command")
    run = write_run(folder / "run", methods=("best", "middle", "worst"))
    options = ["--pairs", 60, "--questions-per-rater", 10, "--out", folder / "study"]
    said = call("create", run, *options)
    assert "60 pairs of best, middle, worst; 18 raters with 10 questions" in said
    assert BANNER in said
    crowd = ["--shares", "80,15,5", "--dropout", "0.3", "--careless", "0.3"]
    assert "simulated raters" in call("simulate", folder / "study", *crowd)
    return Place(folder / "study")


def test_simulated_raters_fill_every_pair_in_spite_of_drop_outs(place: Place) -> None:
    store = Store(place.study, open_database(simulated_url(place.folder)))
    progress = store.progress()
    store.database.close()
    assert (progress.answers, progress.complete_pairs) == (180, 60)
    assert progress.raters > 18
    assert progress.finished < progress.raters
    assert progress.simulated


def test_results_rank_the_methods_and_say_that_raters_are_simulated(place: Place) -> None:
    said = call("results", place.folder, "--simulated")
    assert SIMULATED in " ".join(said.split())
    folder = place.folder / "results-simulated"
    strengths = pd.read_csv(folder / "study-subject-strengths.csv")
    assert strengths["method"].tolist() == ["best", "middle", "worst"]
    shares = pd.read_csv(folder / "study-subject-shares.csv")
    majority = shares[shares["of"] == "pairs"]
    assert len(majority) == 3
    assert (majority["first_share"] > majority["second_share"]).all()
    metrics = pd.read_csv(folder / "study-subject-metrics.csv").set_index("metric")
    assert set(metrics.index) == {"dino", "clip-t"}
    # Both were written higher for better methods, as the raters prefer them.
    assert (metrics["pearson"] > 0.2).all()
    assert (metrics["accuracy"] > 0.55).all()
    checks = pd.read_csv(folder / "study-subject-checks.csv")
    assert 0 < checks["failed"].sum() < checks["checks"].sum() / 2
    assert "simulated" in (folder / "results.tex").read_text()


def test_export_and_import_keep_every_answer(place: Place, tmp_path: Path) -> None:
    expected = analyse_folder(place.folder, simulated_url(place.folder))
    for kind in ("csv", "jsonl"):
        file = tmp_path / f"answers.{kind}"
        said = call(
            "export", place.folder, "--out", file, "--database", simulated_url(place.folder)
        )
        assert said.startswith(f"{file}: ")
        copy = tmp_path / f"copy-{kind}"
        shutil.copytree(place.folder, copy, ignore=shutil.ignore_patterns("*.sqlite*", "results*"))
        assert "answers added" in call("import", copy, file)
        found = analyse_folder(copy)
        pd.testing.assert_frame_equal(found.majority, expected.majority)
        pd.testing.assert_frame_equal(found.times, expected.times)
        assert SIMULATED in found.banners
        assert analyse_file(file).banners == found.banners
        # Once more is refused, and so is serving people on top of it.
        with pytest.raises(UserError, match="has answers here already"):
            call("import", copy, file)
        with pytest.raises(UserError, match="simulated answers"):
            make_app(copy)
        # Without a study's folder the shares are the same.
        pd.testing.assert_frame_equal(analyse_file(file).majority, expected.majority)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pair": "x", "choice": "left"}, "rater is missing"),
        ({"rater": "r", "pair": "x", "choice": "both"}, '"both" is none of'),
        ({"rater": "r", "pair": "x", "choice": "left"}, 'pair "x" is not one of this study'),
        ({"rater": "=cmd()", "choice": "left"}, "must be 1 to 64 letters"),
        ({"rater": "r", "choice": "left", "seconds": "soon"}, "is not a number"),
    ],
)
def test_answers_that_cannot_be_imported_are_one_line_and_none_is_added(
    place: Place, tmp_path: Path, row: dict[str, str], message: str
) -> None:
    file = tmp_path / "answers.jsonl"
    good = {"rater": "good", "pair": place.study.pairs[1].id, "choice": "left"}
    row = {"pair": place.study.pairs[0].id} | row
    file.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    url = f"sqlite:///{tmp_path}/new.sqlite"
    with pytest.raises(UserError, match=message) as caught:
        call("import", place.folder, file, "--database", url)
    assert "\n" not in str(caught.value)
    store = Store(place.study, open_database(url))
    assert store.answers() == []
    store.database.close()


def test_simulated_raters_never_join_people(place: Place, tmp_path: Path) -> None:
    store = Store(place.study, open_database(f"sqlite:///{tmp_path}/people.sqlite"))
    store.admit("somebody", "link")
    with pytest.raises(UserError, match="has raters already"):
        simulate_study(store, Crowd((0.6, 0.3, 0.1)), seed=0)
    store.database.close()


def test_a_plan_says_how_precise_a_study_is(place: Place) -> None:
    said = call("plan", "--shares", "60,30,10", "--pairs", "40,400", "--studies", 20)
    assert SIMULATED in " ".join(said.split())
    lines = [line.split() for line in said.splitlines() if "points" in line]
    assert [line[0] for line in lines] == ["40", "400"]
    assert float(lines[1][3]) < float(lines[0][3])
    assert lines[1][-1] == "100%"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--shares", "60,30"], "cannot read --shares"),
        (["plan", "--shares", "60,30,30"], "add up to 1"),
        (["plan", "--pairs", "many"], "cannot read --pairs"),
        (["plan", "--error", "2"], "--error is 2"),
        (["results", "nowhere"], "holds no study"),
        (["create", "nowhere", "--question", "subjekt"], 'did you mean "subject"'),
        (["create", "nowhere"], "holds no samples"),
        (["serve", "nowhere"], "holds no study"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_without_the_extra_one_line_says_how_to_install_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_package, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "dbbench\[study\]"'):
        call("serve", place.folder)


def test_links_are_personal_and_the_same_every_time(place: Place) -> None:
    first, second = call("links", place.folder), call("links", place.folder, "--count", 3)
    assert len(set(first.split())) == place.study.raters_needed
    assert first.split()[:3] == second.split()


def test_neither_help_nor_create_needs_torch(place: Place, tmp_path: Path) -> None:
    code = (
        "import sys; from dbbench.study.server import web;"
        "from dbbench.study.analysis import simulate;"
        "from dbbench.reports.study import pages;"
        "from dbbench.study.design.create import create_study; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
