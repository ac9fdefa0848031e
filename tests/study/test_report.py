"""User studies in reports: the paper's Table 2, its verdicts, and what stands on simulated ones."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study_run
from finished_run import BANNER, Page, write_run
from study_answers import rows
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.reports import write_overview, write_report
from dbbench.reports.formats.table import markdown_table, tex
from dbbench.reports.study.pages import write_study_page
from dbbench.reports.study.preferences import Preferences, find_preferences
from dbbench.reports.study.study_tables import study_tables
from dbbench.study.analysis.simulate import Crowd, simulate_study
from dbbench.study.analysis.summary import SIMULATED, Analysis, analyse
from dbbench.study.answers.database import default_url, open_database
from dbbench.study.answers.store import Store
from dbbench.study.design.study import load_study

PAPER = ("dreambooth", "textual_inversion")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    choices = ["left", "left", "right", "undecided"]
    answers = [f"r{r} p{p} {choices[(p * 7 + r) % 4]}" for p in range(8) for r in range(3)]
    table = rows(*answers, origin="simulated", methods=("textual_inversion", "dream<b>&booth|x"))
    images = [f"p{p}-{side}" for p in range(8) for side in ("left", "right")]
    scores = pd.DataFrame({"image": images, "metric": "dino", "value": np.linspace(0, 1, 16)})
    return analyse(table, scores=scores, banner="mini: embedded world")


def preferring(left: int, right: int, *, question: str = "subject") -> Analysis:
    """A study of that many pairs for either of the paper's methods, three raters in each."""
    sides = ["left"] * left + ["right"] * right
    answers = [f"r{r} p{p} {side}" for p, side in enumerate(sides) for r in range(3)]
    return replace(analyse(rows(*answers, methods=PAPER)), question=question)


def test_every_form_carries_every_banner(analysis: Analysis, tmp_path: Path) -> None:
    assert analysis.banners == ("mini: embedded world", SIMULATED)
    for table in study_tables(analysis):
        for banner in analysis.banners:
            assert markdown_table(table, analysis.banners).count(banner) == 1
            assert tex(table, origin="user study", banners=analysis.banners).count(banner) == 1
    folder = tmp_path / "tables"
    page = Page(write_study_page(Preferences((analysis,)), folder))
    assert page.text.count(SIMULATED) == 2 + len(study_tables(analysis))
    assert page.files == []
    written = {path.name for path in folder.iterdir()}
    for name in ("study", "study-subject-shares", "study-subject-metrics"):
        assert {f"{name}.{end}" for end in ("csv", "parquet", "md", "tex")} <= written
    for path in folder.glob("*.csv"):
        assert set(pd.read_csv(path)["banner"]) == {"; ".join(analysis.banners)}
    for path in folder.glob("*.parquet"):
        assert set(pd.read_parquet(path)["banner"]) == {"; ".join(analysis.banners)}


def test_names_with_markup_are_escaped_in_every_form(analysis: Analysis, tmp_path: Path) -> None:
    page = write_study_page(Preferences((analysis,)), tmp_path)
    assert "dream&lt;b&gt;&amp;booth|x" in page.read_text()
    assert "dream<b>" not in page.read_text()
    assert "dream&lt;b>&amp;booth\\|x" in (tmp_path / "results.md").read_text()
    source = (tmp_path / "results.tex").read_text()
    assert r"textual\_inversion" in source
    assert r"dream\textless{}b\textgreater{}\&booth" in source


def test_the_papers_table_stands_beside_the_published_shares() -> None:
    both = Preferences((preferring(60, 30), preferring(80, 5, question="prompt")))
    header, *_ = [both.table().header]
    assert header == ["preferred", "subject fidelity", "95%", "published",
                      "prompt fidelity", "95%", "published"]  # fmt: skip
    shown = [[line[0], line[1], line[3], line[4], line[6]] for line in both.table().rows]
    assert shown == [
        ["DreamBooth", "67%", "68%", "94%", "81%"],
        ["Textual Inversion", "33%", "22%", "6%", "12%"],
        ["undecided", "0%", "10%", "0%", "7%"],
    ]


@pytest.mark.parametrize(
    ("left", "right", "outcome"),
    [(60, 20, "reproduced"), (20, 60, "not reproduced"), (41, 39, "not decidable")],
)
def test_people_decide_whether_the_papers_finding_is_reproduced(
    left: int, right: int, outcome: str
) -> None:
    (finding,) = Preferences((preferring(left, right),)).findings
    assert (finding.outcome, finding.simulated) == (outcome, False)


def test_other_methods_have_neither_published_shares_nor_a_verdict(analysis: Analysis) -> None:
    study = Preferences((analysis,))
    assert study.findings == []
    assert all(share.published is None for _, shares in study.rows for share in shares)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, another of which no study was made, and two studies beside them, one answered."""
    place = tmp_path_factory.mktemp("results")
    study_run.write_run(place / "asked")
    write_run(place / "run")
    for question in ("subject", "prompt"):
        options = ["--question", question, "--pairs", 30, "--questions-per-rater", 10]
        call("study", "create", place / "asked", *options, "--out", place / f"study-{question}")
    call("study", "simulate", place / "study-prompt", "--shares", "80,15,5")
    # The written run is the richer one; the study is made to be one of it.
    record = place / "study-subject" / "study.json"
    record.write_text(record.read_text().replace('"asked"', '"run"'))
    study = load_study(record.parent)
    store = Store(study, open_database(default_url(record.parent)))
    simulate_study(store, Crowd((0.8, 0.15, 0.05)), seed=1)
    store.database.close()
    return place


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_study_beside_a_run_is_in_its_report_and_in_no_other(place: Path) -> None:
    page = Page(write_report(place / "run"))
    assert "Table 2: what people prefer" in page.text
    assert "reproduced, simulated raters" in page.text
    assert SIMULATED in page.text
    tables = place / "run/report/tables"
    shares = pd.read_csv(tables / "study.csv")
    assert shares["published"].tolist() == [0.68, 0.22, 0.10]
    assert set(shares["banner"]) == {f"{BANNER}; {SIMULATED}"}
    assert r"\input{study.tex}" in (tables / "all.tex").read_text()
    assert find_preferences(place / "asked").studies == ()
    # Simulated answers are shown where they are asked for, never by themselves.
    assert find_preferences(place / "run").questions == ("subject fidelity",)


def test_a_study_can_be_named_and_several_runs_share_one_table(place: Path) -> None:
    studies = [place / "study-subject", place / "study-prompt"]
    page = Page(write_report(place / "run", studies=studies))
    assert "prompt fidelity" in page.text
    overview = write_overview([place / "run"], place / "all", studies=studies)
    assert Page(overview).text.count("reproduced, simulated raters") == 2
    assert (place / "all/tables/study.parquet").is_file()
    said = call("report", place / "run", "--study", place / "study-prompt")
    assert "report: " in said
    text = (place / "run/report/tables/study.md").read_text()
    assert "prompt fidelity" in text
    assert "subject fidelity" not in text


def test_a_study_that_cannot_be_read_is_named_and_stops_no_report(place: Path) -> None:
    broken = place / "study-broken"
    broken.mkdir()
    (broken / "answers.sqlite").touch()
    (broken / "study.json").write_text("{}")
    page = Page(write_report(place / "run"))
    shutil.rmtree(broken)
    assert "study-broken: " in page.text
    assert "cannot be read as a study" in page.text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(analysis: Analysis, tmp_path: Path) -> None:
    write_study_page(Preferences((analysis,)), tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]
