"""The report shows all, escapes all, asks nothing of a network, and keeps the banner."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import harness
import numpy as np
import pandas as pd
import pytest
from finished_run import BANNER, DOGS, METHODS, MakeRun, Page
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.errors import UserError
from dbbench.prompt import load_prompts
from dbbench.reports import print_leaderboard, write_overview, write_report
from dbbench.reports.results import _load, load_results
from dbbench.suite import Suite


def text_of(out: Path) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_leaderboard(out, console)
    return console.export_text()


def test_page_is_one_folder_without_any_request(make_run: MakeRun) -> None:
    page = Page(write_report(make_run()))
    assert page.files
    for file in page.files:
        assert not re.match(r"[a-z]+:|//|/|\.\.", file), file
        assert (page.folder / file).is_file(), file
    assert not {"iframe", "object", "form", "base"} & set(page.tags)
    assert "default-src 'none'" in page.source
    assert not re.search(r"@import|@font-face|fetch\(|XMLHttpRequest|https?://", page.source)


def test_every_sample_and_reference_is_on_the_page(make_run: MakeRun) -> None:
    out = make_run()
    page = Page(write_report(out))
    pictures = {file for file in page.files if file.startswith(("samples/", "references/"))}
    assert len(pictures) == 2 * 3 + 2 * 2
    for method in METHODS:
        with Image.open(page.folder / "samples" / f"{method}--dog.jpg") as sheet:
            assert sheet.size == (2 * 16, 3 * 16)
            for row, template in enumerate(load_prompts(True)[:3]):
                for column in range(2):
                    path = out / f"runs/{method}/dog/0/samples/{template.id}/{column}.png"
                    with Image.open(path) as sample:
                        box = (16 * column, 16 * row, 16 * column + 16, 16 * row + 16)
                        shown = np.asarray(sheet.crop(box), dtype=float)
                        drawn = np.asarray(sample.convert("RGB"), dtype=float)
                    assert np.abs(shown - drawn).mean() < 6
    for template in load_prompts(True)[:3]:
        assert template.render("", "dog") in page.text


def test_banner_is_on_every_table_print_and_page(make_run: MakeRun) -> None:
    out = make_run()
    page = Page(write_report(out))
    assert page.text.count(BANNER) >= 5
    for name in ("leaderboard", "leaderboard-subjects", "leaderboard-differences"):
        for table in (pd.read_csv(out / f"{name}.csv"), pd.read_parquet(out / f"{name}.parquet")):
            assert set(table["banner"]) == {BANNER}
    markdown = (out / "leaderboard.md").read_text()
    assert markdown.count(BANNER) == markdown.count("\n## ") == 4
    assert text_of(out).count(BANNER) == 2


def test_published_rows_stand_beside_only_where_there_is_no_banner(make_run: MakeRun) -> None:
    page = Page(write_report(make_run()))
    assert "Published" not in page.text
    assert "BLIP" not in page.source
    out = make_run(banner=None)
    page = Page(write_report(out))
    assert "BLIP-Diffusion" in page.text
    assert "0.668" in page.text
    assert "BLIP-Diffusion" in (out / "leaderboard.md").read_text()
    # Beside, and in no ranking with them.
    for name in ("leaderboard.csv", "leaderboard-differences.csv"):
        assert "BLIP" not in (out / name).read_text()


def test_missing_run_is_shown_and_not_ranked(make_run: MakeRun) -> None:
    out = make_run(skip=(("textual_inversion", "dog"),), prompts=25)
    page = Page(write_report(out))
    assert "1/2 subjects, not ranked" in page.text
    assert "textual_inversion is not ranked: 1/2 subjects" in text_of(out)
    table = pd.read_csv(out / "leaderboard.csv").set_index("method")
    assert table.loc["dreambooth", "dino_rank"] == 1
    assert pd.isna(table.loc["textual_inversion", "dino_rank"])
    assert table.loc["textual_inversion", "note"] == "1/2 subjects"


def test_few_subjects_have_no_interval_and_the_page_says_why(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(prompts=25)))
    assert "no interval" in page.text
    assert "an interval needs at least 5 subjects, here 2 subjects" in page.text


def test_verdict_follows_the_paired_test(make_run: MakeRun) -> None:
    few = Page(write_report(make_run(prompts=25)))
    assert few.text.count("cannot tell") == 5
    assert "differ\n" not in few.text
    many = Page(write_report(make_run(prompts=25, subjects=DOGS)))
    assert "cannot tell" not in many.text


def test_names_and_credits_with_markup_are_escaped(make_run: MakeRun) -> None:
    out = make_run(methods=("dreambooth", "a<b>&c"), credit='<img src="x" onerror="y"> {number}')
    page = Page(write_report(out))
    assert page.tags.count("script") == 1
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", page.source)
    assert "a<b>&c" in page.text
    assert "a&lt;b>&amp;c" in (out / "leaderboard.md").read_text()
    assert "a<b>&c" in text_of(out)
    assert all((page.folder / file).is_file() for file in page.files)


def test_each_photographer_is_credited(make_run: MakeRun) -> None:
    page = Page(write_report(make_run()))
    for number in range(3):
        assert f"photo by {number} (CC0)" in page.text
    same = Page(write_report(make_run(credit="drawn")))
    assert "all: drawn" in same.text


def test_large_images_become_thumbnails(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(side=400, prompts=1, subjects=("dog",))))
    with Image.open(page.folder / "references" / "dog-00.jpg") as reference:
        assert reference.size == (256, 256)
    with Image.open(page.folder / "samples" / "dreambooth--dog.jpg") as sheet:
        assert sheet.size == (320, 160)


def test_pictures_are_made_once_and_follow_their_samples(make_run: MakeRun) -> None:
    out = make_run()
    report = write_report(out).parent
    sheet, other = (report / f"samples/{method}--dog.jpg" for method in METHODS)
    times = sheet.stat().st_mtime_ns, other.stat().st_mtime_ns
    write_report(out)
    assert (sheet.stat().st_mtime_ns, other.stat().st_mtime_ns) == times
    samples = out / "runs" / "dreambooth" / "dog" / "0" / "samples"
    (samples / "manifest.json").write_text(json.dumps({"fingerprint": "new", "files": []}))
    write_report(out)
    assert sheet.stat().st_mtime_ns > times[0]
    assert other.stat().st_mtime_ns == times[1]


def test_same_folder_gives_the_same_page(make_run: MakeRun) -> None:
    out = make_run()
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first


def test_pictures_that_nothing_shows_any_more_go(make_run: MakeRun) -> None:
    out = make_run()
    report = write_report(out).parent
    make_run(subjects=("teapot",))
    write_report(out)
    assert not list(report.glob("*/*dog*"))
    assert list(report.glob("samples/*teapot*"))


def test_page_holds_suite_versions_and_fingerprints(make_run: MakeRun) -> None:
    page = Page(write_report(make_run()))
    for fact in (
        "f00d" * 16,
        "dbbench 0.1.0",
        "mini-clip",
        "without self-pairs",
        '"resolution": 16',
    ):
        assert fact in page.text


def test_page_is_readable_without_scripts(make_run: MakeRun) -> None:
    page = Page(write_report(make_run()))
    before = page.source[: page.source.index("<script>")]
    assert before.count("<details") == 3
    assert before.count('class="strip ') == 2 * 3 * 2
    assert re.search(r'<div id="picker" hidden>', before)


def test_expected_scores_stand_beside_the_found_ones(make_run: MakeRun) -> None:
    out = make_run(prompts=25)
    record = json.loads((out / "suite.json").read_text())
    expected = {"method": "dreambooth", "scores": {"dino": 0.668}, "source": "arXiv 2208.12242"}
    record["suite"]["expected"] = [expected]
    (out / "suite.json").write_text(json.dumps(record))
    text = Page(write_report(out)).text
    assert "Expected of this recipe" in text
    assert "arXiv 2208.12242" in text


def test_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="holds no results"):
        print_leaderboard(tmp_path / "nowhere", Console())


def test_record_of_another_version_is_refused_not_misread(make_run: MakeRun) -> None:
    out = make_run()
    record = json.loads((out / "suite.json").read_text())
    record["suite"]["wondrous"] = 1
    (out / "suite.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="another version") as caught:
        write_report(out)
    assert "\n" not in str(caught.value)


def test_damaged_sample_is_named(make_run: MakeRun) -> None:
    out = make_run()
    sample = out / "runs/dreambooth/dog/0/samples" / load_prompts(True)[1].id / "1.png"
    sample.write_bytes(sample.read_bytes()[:40])
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        write_report(out)


def test_reporting_does_not_import_torch(make_run: MakeRun) -> None:
    code = (
        "import sys; from pathlib import Path; from dbbench.reports import write_report; "
        f"write_report(Path({str(make_run())!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
