"""A study's folder holds everything, balanced, and tells raters not where images are from."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from study_run import BANNER, write_run

from dbbench.errors import UserError
from dbbench.study.design.create import StudySettings, create_study
from dbbench.study.design.secret import Secrets
from dbbench.study.design.study import Pair, Study, load_study
from dbbench.study.design.texts import default_texts

SMALL = StudySettings(question="subject", pairs=60, questions_per_rater=10)


def make(runs: list[Path], out: Path, settings: StudySettings = SMALL) -> Study:
    return create_study(runs, out, settings, default_texts(settings.question, 12))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "mini")


def key(pair: Pair) -> tuple[str, ...]:
    left, right = pair.left, pair.right
    return (
        pair.subject,
        pair.prompt,
        *sorted([left.method + left.file, right.method + right.file]),
    )


def test_folder_holds_all_that_is_needed_without_the_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    made = make([copy], tmp_path / "study")
    shutil.rmtree(copy)
    study = load_study(tmp_path / "study")
    assert study == made
    shown = {c.image for p in (*study.pairs, *study.checks) for c in (p.left, p.right)}
    shown |= {r.image for references in study.references.values() for r in references}
    assert shown == set(study.images)
    for file in study.images.values():
        with Image.open(tmp_path / "study" / "images" / file) as image:
            image.load()
    assert study.banner == BANNER


def test_images_are_copied_pixel_for_pixel_and_say_nothing_of_their_method(
    run: Path, tmp_path: Path
) -> None:
    study = make([run], tmp_path / "study")
    for pair in study.pairs[:5]:
        for shown in (pair.left, pair.right):
            original = run / "runs" / shown.method / pair.subject / "0" / "samples" / shown.file
            copy = tmp_path / "study" / "images" / study.images[shown.image]
            with Image.open(original) as a, Image.open(copy) as b:
                assert np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b))
                assert not b.getexif()
            for word in ("dream", "textual", "dog", "0.png"):
                assert word not in shown.image
    again = make([run], tmp_path / "again")
    assert {p.left.image for p in again.pairs}.isdisjoint(study.images)


@pytest.mark.parametrize("count", [17, 60, 100])
def test_pairs_are_balanced_and_never_twice_the_same(run: Path, tmp_path: Path, count: int) -> None:
    settings = StudySettings(question="subject", pairs=count, questions_per_rater=10)
    pairs = make([run], tmp_path / "study", settings).pairs
    assert len({key(pair) for pair in pairs}) == len(pairs) == count
    assert all(p.left.method != p.right.method for p in pairs)
    spread(Counter(pair.subject for pair in pairs), 1)
    # The two lists of prompts share some, so that only within a kind can prompts be even.
    spread(Counter((pair.subject, pair.prompt) for pair in pairs), 1, 18)
    spread(Counter(pair.left.method for pair in pairs), 1)
    for subject in ("dog", "teapot", "vase"):
        spread(Counter(p.left.method for p in pairs if p.subject == subject), 2)


def test_three_methods_are_compared_equally_often(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", methods=("a", "b", "c"), subjects=("dog", "teapot"))
    study = make([run], tmp_path / "study")
    assert study.methods == ("a", "b", "c")
    spread(Counter(frozenset(pair.methods) for pair in study.pairs), 0, 3)
    for method in study.methods:
        sides = Counter(p.methods.index(method) for p in study.pairs if method in p.methods)
        spread(sides, 2)


def spread(counts: Counter[object], most: int, of: int = 0) -> None:
    values = [*counts.values(), *[0] * (of - len(counts))]
    assert max(values) - min(values) <= most, counts


def test_the_seed_decides_the_pairs(run: Path, tmp_path: Path) -> None:
    first, same = (make([run], tmp_path / name) for name in "ab")
    other = make([run], tmp_path / "c", StudySettings(question="subject", pairs=60, seed=1))
    keys = [[(key(p), p.left.method) for p in study.pairs] for study in (first, same, other)]
    assert keys[0] == keys[1] != keys[2]


def test_attention_checks_have_a_known_answer(run: Path, tmp_path: Path) -> None:
    study = make([run], tmp_path / "study")
    assert {check.answer for check in study.checks} == {"left", "right"}
    for check in study.checks:
        right, wrong = (check.left, check.right)[:: 1 if check.answer == "left" else -1]
        references = {r.image for r in study.references[check.subject]}
        assert right.image in references
        assert wrong.image not in references
        assert check.text == f"a {check.class_noun}"
        credited = {r.image for references in study.references.values() for r in references}
        assert {right.image, wrong.image} <= credited


def test_one_class_noun_has_attention_checks_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", subjects=("dog", "dog2"))
    study = make([run], tmp_path / "study")
    assert len(study.checks) == 20
    images = {c.left.image for c in study.checks} | {c.right.image for c in study.checks}
    real = {r.image for references in study.references.values() for r in references}
    assert images - real


def test_several_runs_are_compared(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", methods=("dreambooth", "mine"))
    study = make([run, other], tmp_path / "study")
    assert study.runs == ("mini", "other")
    assert study.methods == (
        "dreambooth (mini)",
        "dreambooth (other)",
        "mine",
        "textual_inversion",
    )
    scores = pd.read_parquet(tmp_path / "study" / "scores.parquet")
    assert set(scores["image"]) == {c.image for p in study.pairs for c in (p.left, p.right)}


def test_runs_with_different_references_are_refused(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", methods=("mine",))
    path = other / "references" / "dog" / "references.json"
    path.write_text(path.read_text().replace("dog0", "changed"))
    with pytest.raises(UserError, match='different reference images of "dog"'):
        make([run, other], tmp_path / "study")


def test_scores_are_kept_for_every_image_shown(run: Path, tmp_path: Path) -> None:
    study = make([run], tmp_path / "study")
    kept = pd.read_parquet(tmp_path / "study" / "scores.parquet").set_index(["image", "metric"])
    original = pd.read_parquet(run / "scores.parquet")
    for pair in study.pairs[:10]:
        shown = pair.left
        row = original[
            (original["method"] == shown.method)
            & (original["subject"] == pair.subject)
            & (original["image"] == shown.file)
            & (original["metric"] == "clip-t")
        ]
        assert kept.loc[(shown.image, "clip-t"), "value"] == row["value"].item()


def test_secrets_are_for_the_owner_alone(run: Path, tmp_path: Path) -> None:
    make([run], tmp_path / "study")
    path = tmp_path / "study" / "secrets.json"
    assert path.stat().st_mode & 0o077 == 0
    secrets = Secrets.load(tmp_path / "study")
    assert secrets.key not in (tmp_path / "study" / "study.json").read_text()
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        Secrets.load(tmp_path / "study")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 10_000}, "10000 pairs cannot be drawn, there are 162"),
        ({"pairs": 0}, "--pairs is 0"),
        ({"pairs": 5}, "raise --pairs"),
        ({"checks_per_rater": 99}, "--checks is 99"),
        ({"raters_per_pair": -1}, "--raters-per-pair is -1"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line(
    run: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    settings = StudySettings(**{"question": "subject", "questions_per_rater": 10} | change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        make([run], tmp_path / "study", settings)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_cannot_be_used_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no samples"):
        make([tmp_path], tmp_path / "study")
    single = write_run(tmp_path / "single", methods=("alone",))
    with pytest.raises(UserError, match="samples of two methods"):
        make([single], tmp_path / "study")
    damaged = write_run(tmp_path / "damaged")
    for path in damaged.glob("runs/*/dog/0/samples/*/*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"\.png cannot be read"):
        make([damaged], tmp_path / "study")
    path = next(damaged.glob("runs/*/dog/0/samples/samples.json"))
    path.write_text("{}")
    with pytest.raises(UserError, match=r'samples\.json cannot be read \("images" is missing'):
        make([damaged], tmp_path / "study")
    make([run], tmp_path / "study")
    with pytest.raises(UserError, match="exists already"):
        make([run], tmp_path / "study")


def test_folder_without_a_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        load_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="cannot be read as a study"):
        load_study(tmp_path)
