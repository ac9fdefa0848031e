"""What a report brings beside its leaderboard: paper tables, files, plots, flags, several runs."""

import re
import shutil
import subprocess
from pathlib import Path

import harness
import numpy as np
import pandas as pd
import pytest
from finished_run import DOGS, MakeRun, Page, text_of
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401
from PIL import Image
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.data.prompt import load_prompts
from dbbench.errors import UserError
from dbbench.reports import write_overview, write_report
from dbbench.reports.results import _load, load_results
from dbbench.suites.suite import Suite

PAPER = {
    "title": "Table 9",
    "source": "arXiv 2208.12242, Table 9",
    "labels": {"dreambooth": "Dream & Booth"},
    "published": [{"method": "dreambooth", "scores": {"dino": 0.668}}],
    "claims": [
        {"text": "It is better", "metric": "dino", "first": m, "second": n, "relation": r}
        for m, n, r in (
            ("dreambooth", "textual_inversion", "above"),
            ("textual_inversion", "dreambooth", "above"),
            ("textual_inversion", "dreambooth", "below"),
            ("dreambooth", "textual_inversion", "not below"),
            ("dreambooth", "nothing", "above"),
        )
    ],
}


def test_a_papers_table_stands_beside_what_was_found_with_a_verdict_each(make_run: MakeRun):
    out = make_run(subjects=DOGS, suite={"table": PAPER})
    page = Page(write_report(out))
    verdicts = pd.read_csv(out / "report/tables/verdicts.csv")["verdict"].tolist()
    assert verdicts == ["reproduced", "not reproduced", "reproduced", "reproduced", "not run"]
    table = pd.read_csv(out / "report/tables/paper.csv").set_index(["method", "metric"])
    assert table.loc[("dreambooth", "dino"), "published"] == 0.668
    assert table.loc[("dreambooth", "dino"), "found"] == pytest.approx(0.61)
    assert "Dream & Booth" in page.text
    assert "It is better: reproduced (+0.100" in text_of(out)


def test_few_subjects_cannot_decide_a_finding(make_run: MakeRun):
    out = make_run(suite={"table": PAPER})
    assert "not decidable with this many subjects" in text_of(out)


def test_every_table_is_there_in_four_forms_and_every_plot_in_two(make_run: MakeRun):
    report = write_report(make_run(banner=None, suite={"table": PAPER})).parent
    names = {"paper", "verdicts", "leaderboard", "differences", "subjects", "prompts", "published"}
    for form in ("md", "csv", "parquet", "tex"):
        assert names <= {path.stem for path in (report / "tables").glob(f"*.{form}")}
    for form in ("svg", "png"):
        plots = {path.stem for path in (report / "plots").glob(f"*.{form}")}
        assert plots == {"trade-off", "intervals", "subjects", "prompts", "training"}


def test_latex_escapes_what_is_a_command_and_uses_booktabs(make_run: MakeRun):
    out = make_run(methods=("dreambooth", "50%_of{x}&\\y"))
    tables = write_report(out).parent / "tables"
    text = (tables / "leaderboard.tex").read_text()
    assert r"50\%\_of\{x\}\&\textbackslash{}y" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {len(rows[0].split(" & ")) - 1}


def test_latex_compiles(make_run: MakeRun):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (texlive-latex-base, texlive-latex-recommended)")
    out = make_run(banner=None, methods=("dreambooth", "50%_of{x}&y<z>"), suite={"table": PAPER})
    tables = write_report(out).parent / "tables"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    result = subprocess.run(command, cwd=tables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:]


def test_a_plot_is_drawn_again_only_when_its_numbers_change(make_run: MakeRun):
    out = make_run()
    plot = write_report(out).parent / "plots" / "trade-off.svg"
    before = plot.stat().st_mtime_ns
    write_report(out)
    assert plot.stat().st_mtime_ns == before
    make_run(level={"dreambooth": 0.05})
    write_report(out)
    assert plot.stat().st_mtime_ns > before


def test_images_closer_than_the_references_are_flagged_with_the_nearest(make_run: MakeRun):
    out = make_run(subjects=("dog",))
    real = np.eye(4)[:3] + 0.2
    drawn = np.tile([0.1, 0.1, 0.1, 1.0], (6, 1))
    drawn[4] = real[1]  # the third prompt's first image is the second reference
    drawn[5] = [0.0, 0.0, 0.0, -1.0]
    for folder, rows in (
        (out / "features/real/dog/dino", real),
        (out / "runs/dreambooth/dog/0/features/dino", drawn),
    ):
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", rows.astype(np.float32))
    page = Page(write_report(out))
    third = load_prompts(True)[2].id
    assert f"#show=dog/{third}" in page.links
    assert "dreambooth12" in page.text  # one copy; the first two prompts have one picture each
    assert "textual_inversionnot knownnot known" in page.text


def test_the_bare_class_noun_is_shown_before_and_after(make_run: MakeRun):
    out = make_run(drift=4)
    page = Page(write_report(out))
    strips = {file for file in page.files if file.startswith("drift/")}
    assert len(strips) == 2 * (1 + 2)
    assert "class-noun" not in {v for k, v in re.findall(r'(data-prompt)="([^"]*)"', page.source)}
    with Image.open(page.folder / "drift/dreambooth--dog.jpg") as strip:
        assert strip.size == (4 * 16, 16)


def test_runs_of_different_protocols_are_kept_apart_and_like_ones_ranked_together(
    make_run: MakeRun, tmp_path: Path
):
    one, two = make_run(name="one"), make_run(name="two")
    other = make_run(name="other", banner=None)
    page = Page(write_overview([one, two, other], tmp_path / "all"))
    text = " ".join(page.text.split())
    assert "Ranked together: one, two" in text
    assert text.count("Ranked together") == 1
    assert "two: dreambooth" in text
    assert "other: dreambooth" not in text
    assert {"../one/report/index.html", "../other/report/index.html"} <= set(page.links)


def test_like_runs_in_folders_of_one_name_are_ranked_each_by_itself(
    make_run: MakeRun, tmp_path: Path
):
    one = make_run(name="a/run", subjects=DOGS)
    two = make_run(name="b/run", subjects=DOGS, level={"dreambooth": 0.05})
    text = " ".join(Page(write_overview([one, two], tmp_path / "all")).text.split())
    assert "Ranked together: a/run, b/run" in text
    better, worse = (re.search(rf"{name}/run: dreambooth\s*(0\.\d\d\d)", text) for name in "ab")
    assert better
    assert worse
    assert float(better[1]) - float(worse[1]) == pytest.approx(0.05)


def test_the_page_of_several_runs_shows_the_limits_of_each(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
):
    out = tmp_path / "out"
    harness.run(suite, out, subjects="dog,can", methods=["plain"])
    write_report(out)
    alone = pd.read_csv(out / "report/tables/limits.csv")["context"].mean()
    page = Page(write_overview([out], tmp_path / "all"))
    text = " ".join(page.text.split())
    assert "Definitions of the limits" in text
    assert (
        f"{alone:.3f}"
        in text[text.index("Hallucinated features") : text.index("Definitions of the limits")]
    )


def test_a_half_finished_run_is_shown_with_what_is_missing(make_run: MakeRun, tmp_path: Path):
    out = make_run(skip=(("dreambooth", "dog"),), suite={"table": PAPER}, prompts=25)
    assert "1/2 subjects" in Page(write_report(out)).text
    overview = Page(write_overview([out, make_run(name="whole")], tmp_path / "all"))
    assert "dreambooth is not ranked: 1/2 subjects" in overview.text


def test_names_with_slashes_and_markup_stay_text_everywhere(make_run: MakeRun, tmp_path: Path):
    label = "<script>alert(1)</script>/.."
    table = {**PAPER, "labels": {"dreambooth": label}}
    out = make_run(suite={"table": table, "description": label})
    for page in (write_report(out), write_overview([out, out], tmp_path / "all")):
        assert "<script>alert" not in page.read_text()
        assert label in Page(page).text


def test_a_run_that_was_stopped_half_way_is_reported_with_what_it_has(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
):
    out = tmp_path / "out"
    harness.run(suite, out, subjects="dog,can", methods=["plain"])
    (out / "scores.parquet").unlink()  # as where the process died before it came to score
    shutil.rmtree(out / "runs/plain/can/0/features")
    result = CliRunner().invoke(app, ["report", str(out)])
    assert result.exit_code == 0, result.output
    assert "1/2 subjects" in result.output
    assert "1/2 subjects, not ranked" in Page(out / "report/index.html").text
    (out / "scores.parquet").unlink()
    (out / "runs/plain/dog/0/samples/samples.json").write_text("{}")
    result = CliRunner().invoke(app, ["report", str(out)])
    assert isinstance(result.exception, UserError)
    message = str(result.exception)
    assert "samples.json has changed since it was written; to repair it, call dbbench" in message


def test_a_leaderboard_is_ranked_again_only_when_scores_or_selection_change(make_run: MakeRun):
    out = make_run(subjects=DOGS)
    write_report(out)
    fresh = load_results(out).leaderboard
    _load.cache_clear()
    kept = load_results(out).leaderboard
    for name in ("ranking", "subjects", "differences"):
        pd.testing.assert_frame_equal(getattr(fresh, name), getattr(kept, name), check_dtype=False)
    make_run(subjects=DOGS, level={"dreambooth": 0.05})
    _load.cache_clear()
    changed = load_results(out).leaderboard.ranking.set_index("method")["dino"]
    before = fresh.ranking.set_index("method")["dino"]
    assert changed["dreambooth"] == pytest.approx(before["dreambooth"] - 0.05)
