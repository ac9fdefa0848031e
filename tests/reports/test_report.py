"""The report shows all, escapes all, asks nothing of a network, and keeps the banner."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_run import BANNER, DOGS, METHODS, MakeRun, Page, text_of
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401
from PIL import Image
from rich.console import Console

from dbbench.data.prompt import load_prompts
from dbbench.errors import UserError
from dbbench.files import hash_file
from dbbench.reports import print_leaderboard, write_report
from dbbench.reports.results import BOARD, _load, load_results


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
    assert "2 subjects cannot decide 1 comparison; 6 subjects can" in few.text
    assert "differ\n" not in few.text
    many = Page(write_report(make_run(prompts=25, subjects=DOGS)))
    assert "no clear difference" not in many.text
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
    assert "Expected scores of this recipe" in text
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


def test_a_leaderboard_of_an_earlier_version_is_made_anew(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier dbbench kept lacks columns; its tables are not taken for those of today."""
    out = make_run(subjects=DOGS)
    with monkeypatch.context() as earlier:
        earlier.setattr("dbbench.reports.results.RANKING_VERSION", 1)
        write_report(out)
        path = out / "leaderboard-differences.parquet"
        pd.read_parquet(path).drop(columns=["decided", "family", "comparisons"]).to_parquet(path)
        kept = json.loads((out / "leaderboard.json").read_text())
        kept["files"] = [hash_file(out / f"{name}.parquet") for name in BOARD]
        (out / "leaderboard.json").write_text(json.dumps(kept))
        _load.cache_clear()
        assert "family" not in load_results(out).leaderboard.differences
    _load.cache_clear()
    write_report(out)
    assert "family" in pd.read_parquet(path)
