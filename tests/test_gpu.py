"""What only a CUDA device can show: the same losses there, and no step that waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
import torch

from dbbench.baselines import step
from dbbench.baselines.dreambooth import DreamBooth
from dbbench.generation.backbone import DType, load_backbone
from dbbench.generation.method import Checkpoint, Concept
from dbbench.suites.sampling import SampleSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]

CONCEPT = Concept(
    "plushie", "stuffed animal", tuple(tiny_backbone.images(3)), tuple(tiny_backbone.images(4))
)


def fit(folder: Path, device: str, dtype: DType, steps: int = 10) -> Checkpoint:
    size = tiny_backbone.RESOLUTION
    backbone = load_backbone(str(folder), resolution=size, device=device, dtype=dtype)
    settings = DreamBooth.Settings(steps=steps, learning_rate=1e-4, identifier="sks")
    return DreamBooth(settings).fit(CONCEPT, backbone, seed=0, progress=lambda *_: None)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_losses_are_those_of_the_cpu(tmp_path: Path, kind: tiny_backbone.Kind) -> None:
    tiny_backbone.write(tmp_path, kind=kind)
    expected = fit(tmp_path, "cpu", "float32").losses
    np.testing.assert_allclose(fit(tmp_path, "cuda", "float32").losses, expected, rtol=1e-3)
    np.testing.assert_allclose(fit(tmp_path, "cuda", "bfloat16").losses, expected, rtol=5e-2)


def test_a_step_does_not_wait_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_backbone.write(tmp_path)
    real = step._backward

    def watched(*arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            real(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(step, "_backward", watched)
    assert len(fit(tmp_path, "cuda", "auto").losses) == 10


def test_half_precision_samples_look_like_whole(tmp_path: Path) -> None:
    tiny_backbone.write(tmp_path)
    settings, images = SampleSettings(steps=3), []
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        size = tiny_backbone.RESOLUTION
        backbone = load_backbone(str(tmp_path), resolution=size, device="cuda", dtype=dtype)
        images.append(np.asarray(next(backbone.sample(["a dog"], seeds=[0], settings=settings))))
    assert np.abs(images[0].astype(float) - images[1]).mean() < 8
