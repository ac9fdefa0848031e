"""Metrics and limits against drawn pictures of which all is known, and the page of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_run import BANNER, Page, write_run
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.data.dataset import select_subjects
from dbbench.errors import UserError
from dbbench.mini.source import MiniWorld, identities
from dbbench.reports import write_report
from dbbench.reports.validity.pages import read_validity, write_validity
from dbbench.validity.drawn import KINDS, drawn_images, identity_errors
from dbbench.validity.limits import OWN_DEFECT
from dbbench.validity.measure import Validity, measure_validity
from dbbench.validity.power import Pool, detection_rate, smallest_share
from dbbench.validity.truth import Examples

SUBJECTS = "dog,teapot"


@pytest.fixture(scope="module")
def made() -> tuple[Validity, Examples]:
    examples: Examples = {"dog": {}}
    return measure_validity(
        select_subjects(MiniWorld(), SUBJECTS), prompts=5, examples=examples, trials=20
    ), examples


def share(validity: Validity, metric: str, better: str, worse: str) -> float:
    own = validity.orders.set_index(["metric", "better", "worse"])["value"]
    return float(own[metric, better, worse])


@pytest.mark.parametrize("metric", ["dino", "clip-i"])
def test_the_subject_scores_above_another_class_in_right_and_wrong_places(made, metric):
    validity, _ = made
    assert share(validity, metric, "perfect", "other class") > 0.8
    assert share(validity, metric, "wrong place", "other class wrong place") > 0.8


def test_dino_puts_the_subject_above_another_of_its_class(made):
    assert share(made[0], "dino", "perfect", "other identity") > 0.7


def test_clip_t_puts_the_right_place_above_a_wrong_one_and_knows_nobody(made):
    validity, _ = made
    assert share(validity, "clip-t", "perfect", "wrong place") > 0.9
    assert share(validity, "clip-t", "wrong place", "other identity") < 0.5


def test_div_tells_one_picture_again_and_pres_a_class_that_drifted(made):
    validity, _ = made
    assert share(validity, "div", "perfect", "collapsed") > 0.9
    assert share(validity, "pres", "class kept", "class drifted") > 0.8


def test_metrics_are_silent_where_they_promise_nothing(made):
    asked = made[0].orders.groupby("metric")["better"].agg(set)
    assert asked["pres"] == {"class kept"}
    assert asked["div"] == {"perfect"}


@pytest.mark.parametrize(("limit", "defect"), OWN_DEFECT.items())
def test_each_limit_moves_with_its_own_defect(made, limit, defect):
    row = made[0].limits.set_index(["limit", "defect"]).loc[(limit, defect)]
    assert row["own"]
    assert row["with_half"] > row["without"]
    assert row["value"] > 0.5


def test_no_look_moves_the_number_for_the_context(made):
    rows = made[0].limits.set_index(["limit", "defect"])["relative"]
    for defect in ("entangled", "hallucinated", "other identity"):
        assert abs(rows["context", defect]) < 0.3


def test_what_is_drawn_is_what_it_is_called():
    (dog,) = select_subjects(MiniWorld(), "dog")
    for picture in drawn_images("perfect", dog, prompts=None, images=1):
        assert picture.shows_prompt
        assert picture.identity_error == 0
    wrong = drawn_images("wrong place", dog, prompts=None, images=1)
    assert not any(p.shows_prompt for p in wrong)
    assert all(p.identity_error == 0 for p in wrong)
    assert all(p.errors["noun"] == 1 for p in drawn_images("other class", dog, prompts=4, images=1))
    other = drawn_images("other identity", dog, prompts=4, images=1)
    assert all(p.errors["noun"] == 0 and p.identity_error > 0 for p in other)
    assert len({p.scene.identity for p in other}) == 1


def test_pictures_do_not_depend_on_what_else_is_drawn():
    (dog,) = select_subjects(MiniWorld(), "dog")
    for kind in KINDS:
        many = drawn_images(kind, dog, prompts=4, images=2)
        few = drawn_images(kind, dog, prompts=2, images=1)
        assert [p.scene for p in many if p.number == 0][:2] == [p.scene for p in few]


def test_an_identity_error_is_zero_only_for_the_identity_itself():
    known = identities()
    assert set(identity_errors(known["dog"], known["dog"]).values()) == {0.0}
    assert sum(identity_errors(known["dog"], known["dog2"]).values()) > 0
    errors = identity_errors(known["dog"], known["teapot"])
    assert errors["noun"] == errors["proportions"] == 1


def pool(loss: float) -> Pool:
    ones = np.ones(30)
    return Pool(0.7 * ones, loss * ones, 0.01 * ones, 0.01 * ones, 0.01 * ones, prompts=25)


def test_more_bad_images_subjects_or_images_are_found_more_often():
    rates = [detection_rate(pool(0.3), share, subjects=10, images=1) for share in (0.02, 0.1, 0.3)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]
    needed = {
        (n, k): smallest_share(pool(0.3), subjects=n, images=k, uneven=False)
        for n in (10, 30)
        for k in (1, 4)
    }
    assert needed[30, 4] < needed[30, 1] < needed[10, 1]
    assert needed[10, 4] < needed[10, 1]
    assert smallest_share(pool(0.3), subjects=10, images=1, uneven=True) > needed[10, 1]


def test_no_difference_is_found_as_often_as_the_test_allows_and_by_five_subjects_never():
    assert detection_rate(pool(0.3), 0.0, subjects=20, images=2, trials=2000) < 0.05
    assert np.isnan(smallest_share(pool(0.3), subjects=5, images=4, uneven=False))


def test_a_metric_that_prefers_bad_images_never_finds_them():
    assert detection_rate(pool(-0.3), 1.0, subjects=30, images=4) == 0


def test_the_page_and_the_tables_hold_the_banner_and_ask_nothing_of_a_network(made, tmp_path):
    page = Page(write_validity(*made, tmp_path / "validity"))
    assert BANNER in page.text
    assert not [link for link in page.links if "//" in link]
    for link in page.files:
        assert (page.folder / link).is_file(), link
    table = pd.read_parquet(page.folder / "tables" / "validity-orders.parquet")
    assert set(table["banner"]) == {BANNER}
    assert BANNER in (page.folder / "validity.md").read_text(encoding="utf-8")


def test_what_was_made_is_read_again_as_it_was(made, tmp_path):
    from dbbench.reports.validity.validity_tables import validity_tables

    write_validity(*made, tmp_path)
    record, tables = read_validity(tmp_path)
    assert record["subjects"] == SUBJECTS.split(",")
    assert [t.rows for t in tables] == [t.rows for t in validity_tables(made[0])]


def run_with(tmp_path: Path, encoders: dict[str, str]) -> Page:
    out = write_run(tmp_path / "run")
    record = json.loads((out / "suite.json").read_text())
    marks = {role: {"fingerprint": mark} for role, mark in encoders.items()}
    record["identities"]["encoders"] = marks
    (out / "suite.json").write_text(json.dumps(record))
    return Page(write_report(out))


def test_a_mini_run_shows_the_validity_of_its_own_encoders_only(made, tmp_path):
    write_validity(*made, tmp_path / "validity")
    page = run_with(tmp_path, dict(made[0].record["encoders"]))
    assert "validity/index.html" in page.files
    assert (page.folder / "validity" / "index.html").is_file()
    other = run_with(tmp_path, {"dino": "another", "clip": "another"})
    assert "validity/index.html" not in other.files
    assert "dbbench validity" in other.text


def test_a_run_of_photographs_has_no_validity(make_run):
    assert "dbbench validity" not in Page(write_report(make_run(banner=None))).text


def test_wrong_subjects_and_a_runs_folder_are_refused(tmp_path):
    for arguments in (["--subjects", "dgo"], ["--out", str(write_run(tmp_path / "run"))]):
        result = CliRunner().invoke(app, ["validity", *arguments])
        assert isinstance(result.exception, UserError)
