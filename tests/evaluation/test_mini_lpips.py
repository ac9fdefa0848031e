"""DIV in the embedded world: LPIPS's formula on mini-dino, alone and in a suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401
from PIL import Image

from dbbench.data.dataset import select_subjects
from dbbench.errors import UserError
from dbbench.evaluation.encoders.mini import load_dino
from dbbench.evaluation.encoders.mini_lpips import load
from dbbench.mini.source import MiniWorld
from dbbench.suites.suite import Suite


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    world = MiniWorld()
    subjects = select_subjects(world, "dog,vase")
    return [r.image for subject in subjects for r in world.images(subject, 64)[:2]]


def test_it_is_the_mean_squared_difference_of_unit_features(images):
    distances = load("", device="cpu").pairwise_distances(images)
    vit = load_dino("", device="cpu")
    batch = torch.stack([_tensor(image) for image in images])
    with torch.inference_mode():
        blocks = vit._model.forward_intermediates(batch, intermediates_only=True)
    expected = np.zeros((len(images), len(images)))
    for block in blocks:
        unit = block / block.norm(dim=1, keepdim=True)
        for i in range(len(images)):
            for j in range(len(images)):
                expected[i, j] += float(((unit[i] - unit[j]) ** 2).sum(0).mean()) / len(blocks)
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    assert (np.diag(distances) == 0).all()
    assert distances[0, 1] < distances[0, 2]  # one dog in two poses, and a vase


def test_it_takes_no_argument():
    with pytest.raises(UserError, match="takes no argument"):
        load("alex", device="cpu")


def test_a_suite_scores_div_of_the_images_of_a_prompt(suite: Suite, tmp_path: Path):  # noqa: F811
    changes = {
        "metrics": ["dino", "div"],
        "encoders": {**suite.encoders, "lpips": "mini-lpips"},
        "sample": {**suite.sample.model_dump(), "images_per_prompt": 2},
    }
    run(
        Suite.model_validate(suite.model_dump() | changes),
        tmp_path,
        subjects="dog",
        methods=["plain"],
    )
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    div = scores[scores["metric"] == "div"]
    assert set(div["method"]) == {"plain"}  # a photograph has no siblings
    assert len(div) == 50
    assert (div["value"] > 0).all()
    pairs = div.groupby("prompt")["value"].nunique()
    assert (pairs == 1).all()  # of two images, each has the other


def _tensor(image: Image.Image) -> torch.Tensor:
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
