"""The main job on the embedded world, with its real backbone, methods and encoders, cut short."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dbbench.cli import app

SHORT = [
    "--set=train.steps=2",
    "--set=sample.steps=2",
    "--set=sample.images_per_prompt=1",
    "--set=prior.count=4",
    "--set=prior.sampler.steps=2",
    "--device=cpu",
]


def run(out: Path, *more: str) -> str:
    """Run the command; return what it prints."""
    result = CliRunner().invoke(app, ["run", "--suite=mini", f"--out={out}", *SHORT, *more])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "out"
    run(out, "--subjects=dog,teapot")
    return out


def test_both_methods_are_scored_on_every_prompt(finished):
    scores = pd.read_parquet(finished / "scores.parquet")
    counts = scores[scores["method"] != "real-images"].groupby(["method", "subject", "metric"])
    assert set(counts.size()) == {25}
    assert len(counts) == 2 * 2 * 3
    assert scores["value"].between(-1, 1).all()


def test_the_banner_is_on_everything(finished):
    banner = "not comparable with published numbers"
    for name in ("leaderboard.md", "leaderboard.csv", "report/index.html"):
        assert banner in (finished / name).read_text(encoding="utf-8"), name


def test_references_keep_their_truth(finished):
    document = json.loads((finished / "references/dog/references.json").read_text())
    assert all(image["truth"]["identity"]["noun"] == "dog" for image in document["images"])


def test_class_images_are_made_once_for_each_class_noun(finished):
    assert sorted(folder.name for folder in (finished / "prior").iterdir()) == ["dog", "teapot"]


def test_the_same_call_again_does_nothing(finished):
    before = _digest(finished)
    assert "nothing to do" in run(finished, "--subjects=dog,teapot").lower()
    assert _digest(finished) == before


def test_the_same_seed_gives_the_same_images_and_scores(finished, tmp_path):
    run(tmp_path / "again", "--subjects=dog,teapot")
    assert _digest(tmp_path / "again") == _digest(finished)
    one, two = (pd.read_parquet(o / "scores.parquet") for o in (finished, tmp_path / "again"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_photographs_train_on_the_embedded_backbone(photographs, tmp_path):
    out = tmp_path / "photos"
    run(out, f"--data={photographs}", "--subjects=dog,teapot")
    page = (out / "report/index.html").read_text(encoding="utf-8")
    assert "Unsplash" in page or "unsplash" in page  # the photographers' credit
    assert len(pd.read_parquet(out / "scores.parquet")) > 2 * 2 * 25


def _digest(out: Path) -> str:
    """One hash over all images, checkpoints and features."""
    digest = hashlib.sha256()
    for file in sorted(out.rglob("*")):
        if file.suffix in {".png", ".safetensors", ".npy"} and "report" not in file.parts:
            digest.update(str(file.relative_to(out)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
