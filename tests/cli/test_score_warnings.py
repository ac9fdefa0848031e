"""`dbbench score` says what was scored and should be looked at: cut texts, images of one colour."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from harness import installed, plugin_folder
from PIL import Image
from tiny_models import write_transformers
from typer.testing import CliRunner

import dbbench
from dbbench.cli import app

__all__ = ["installed", "plugin_folder"]  # fixtures

LINE = "mini-clip, mini-dino: encoders of the embedded world, not comparable with published numbers"


def picture(seed: int) -> Image.Image:
    return Image.effect_noise((24, 24), 40 + seed).convert("RGB")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Images of two prompts of which one each is black, and references of which one is white."""
    for folder in ("refs/dog", "ours/dog/jungle", "ours/dog/snow"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(3):
        picture(number).save(tmp_path / f"refs/dog/{number}.png")
    Image.new("RGB", (24, 24), "white").save(tmp_path / "refs/dog/3.png")
    for prompt in ("jungle", "snow"):
        picture(7).save(tmp_path / f"ours/dog/{prompt}/0.png")
        Image.new("RGB", (24, 24)).save(tmp_path / f"ours/dog/{prompt}/1.png")
    return tmp_path


def score(world: Path, encoder: str, images: str = "ours") -> str:
    command = ["score", str(world / images), "--references", str(world / "refs"), "--device", "cpu"]
    command += ["--encoder", encoder, "--protocol", "paper", "--out", str(world / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("installed")
def test_images_of_one_colour_are_flagged(world: Path) -> None:
    for _ in range(2):  # The second time nothing is decoded.
        output = score(world, "dino=pixels:4,clip=pixels:6")
        assert "2 of 4 images of ours are of one colour" in output
        assert "dog/jungle/1.png, dog/snow/1.png" in output
        assert "1 of 4 reference images of dog is of one colour" in output
        assert output.count("embedded world") == 0
    flags = pd.read_csv(world / "out/flags.csv").query("flag == 'one colour'")
    assert set(flags["image"]) == {"dog/jungle/1.png", "dog/snow/1.png"}
    assert len(json.loads((world / "out/score.json").read_text())["warnings"]) == 2
    assert "2 of 4 images of ours" in (world / "out/score.md").read_text()
    assert len(pd.read_csv(world / "out/scores.csv").query("metric == 'dino'")) == 4 + 4


def test_texts_that_are_cut_are_said(world: Path) -> None:
    (world / "clip").mkdir()
    write_transformers(world / "clip", "clip")
    start = "a dog in the jungle . " + "in the snow . " * 8
    rows = [
        {"image": "ours/dog/jungle/0.png", "subject": "dog", "prompt": start + end}
        for end in ("a dog", "a teapot")
    ]
    (world / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = score(world, f"dino=mini-dino,clip=hf:{world}/clip", "long.jsonl")
    assert f"2 of 2 texts are cut: hf:{world}/clip reads 24 tokens" in output
    assert "mini-dino: encoder of the embedded world" in output


def test_the_embedded_worlds_encoders_have_their_line_on_every_table(world: Path) -> None:
    output = score(world, "dino=mini-dino,clip=mini-clip")
    assert LINE in " ".join(output.split())
    for name in ("scores", "summary", "flags", "coverage"):
        assert set(pd.read_csv(world / f"out/{name}.csv")["banner"]) == {LINE}
    text = (world / "out/score.md").read_text()
    assert text.count(LINE) == text.count("\n## ")


@pytest.mark.usefixtures("installed")
def test_python_is_told_as_well(world: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 4 images of ours are of one colour"):
        table = dbbench.score(
            world / "ours", world / "refs", encoders={"dino": "pixels:4", "clip": "pixels:6"}
        )
    assert len(table.attrs["warnings"]) == 2
    assert table.attrs["refused"] == []
