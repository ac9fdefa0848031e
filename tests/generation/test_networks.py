"""Weights are put back bit for bit, and only what changed; held in bfloat16 they change nothing."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tiny_backbone
import torch

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Checkpoint, Concept
from dbbench.generation.originals import Originals, checksum
from dbbench.suites.sampling import SampleSettings

CONCEPT = Concept(
    "plushie", "stuffed animal", tuple(tiny_backbone.images(3)), tuple(tiny_backbone.images(4))
)


SNOW = PromptTemplate("snow", "a {token} {class_noun} in the snow", "recontextualization")


@cache
def load(kind: tiny_backbone.Kind, frozen: Any = "float32", dtype: Any = "bfloat16") -> Backbone:
    with TemporaryDirectory() as folder:
        tiny_backbone.write(Path(folder), kind=kind)
        return load_backbone(
            folder, resolution=tiny_backbone.RESOLUTION, device="cpu", dtype=dtype, frozen=frozen
        )


def results(backbone: Backbone, method: Any) -> tuple[Checkpoint, list[bytes]]:
    """Train and sample: the checkpoint, and the images' bytes."""
    named = {} if method is TextualInversion else {"identifier": "sks"}
    made = method(method.Settings(steps=2, learning_rate=1e-3, batch_size=1, **named))
    checkpoint = made.fit(CONCEPT, backbone, seed=1, progress=lambda *_: None)
    sample = SampleSettings(steps=2, scheduler="euler")
    images = made.generate(checkpoint, [SNOW], "dog", backbone, seeds=[3], sample=sample)
    return checkpoint, [image.tobytes() for image in images]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize("method", [DreamBooth, DreamBoothLora, TextualInversion])
def test_frozen_weights_in_bfloat16_change_no_bit(kind: Any, method: Any) -> None:
    whole, held = load(kind), load(kind, "bfloat16")
    assert held.is_held_half
    assert held.fingerprint == whole.fingerprint
    unets = [list(backbone.module(backbone.denoiser).parameters()) for backbone in (held, whole)]
    sizes = [sum(w.numel() * w.element_size() for w in unet) for unet in unets]
    assert sizes[0] < 0.6 * sizes[1]
    expected, images = results(whole, method)
    found, drawn = results(held, method)
    assert found.losses == expected.losses
    for file, tensors in expected.files.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.files[file][name], tensor), name
    assert drawn == images
    for part in held.parts:
        again, original = held.weights(part), whole.weights(part)
        assert all(torch.equal(again[name], tensor) for name, tensor in original.items())


def test_where_passes_are_in_float32_nothing_is_rounded() -> None:
    backbone = load("sd", "bfloat16", "float32")
    assert not backbone.is_held_half
    assert {w.dtype for w in backbone.module("unet").parameters()} == {torch.float32}


@pytest.mark.parametrize("how", ["in place", "data", "swapped", "NaN"])
def test_restore_sees_every_change_and_copies_nothing_else(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    backbone = load("sd", "float32", "float32")
    before = backbone.weights("unet")
    copied = []
    real = Originals.restore
    monkeypatch.setattr(Originals, "restore", lambda self, m: copied.append(real(self, m)))
    backbone.restore()
    assert copied == [0, 0, 0]
    weight = backbone.module("unet").conv_in.weight  # type: ignore[union-attr]
    with torch.no_grad():
        if how == "in place":
            weight[0, 0, 0, 0] += 1  # type: ignore[index,operator]
        elif how == "data":
            weight.data = weight.data * 2  # type: ignore[union-attr,operator]
        elif how == "swapped":
            weight.copy_(weight.flip(0))  # type: ignore[union-attr,operator]
        else:
            weight[0] = float("nan")  # type: ignore[index]
    copied.clear()
    backbone.restore()
    assert copied == [1, 0, 0]
    after = backbone.weights("unet")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_checksums_see_one_bit_and_every_exchange(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(4, 3, 2) * 9).to(dtype)
    changes = [tensor.flip(0), tensor.flip(1), tensor.flip(2)]
    if dtype.is_floating_point:
        changes += [tensor * (1 + torch.eye(4, 3)[..., None].to(dtype) / 128), -tensor]
    for changed in changes:
        assert torch.equal(checksum(changed), checksum(tensor)) == torch.equal(changed, tensor)
    assert torch.equal(checksum(tensor.clone()), checksum(tensor))
    assert torch.equal(checksum(tensor[:0]), checksum(tensor[:0]))


class Small:
    """A device on which networks in float32, or all networks, are too large."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, half_fits: bool) -> None:
        real = torch.nn.Module.to

        def to(module: Any, *arguments: Any, **named: Any) -> Any:
            wide = any(w.dtype == torch.float32 and w.ndim == 4 for w in module.parameters())
            if str(arguments[:1]) == "(device(type='cpu'),)" and (wide or not half_fits):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(module, *arguments, **named)

        monkeypatch.setattr(torch.nn.Module, "to", to)


def test_networks_that_do_not_fit_in_float32_are_held_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_backbone.write(tmp_path)
    size: dict[str, Any] = {"resolution": tiny_backbone.RESOLUTION, "device": "cpu"}
    Small(monkeypatch, half_fits=True)
    with caplog.at_level(logging.WARNING, logger="dbbench"):
        assert load_backbone(str(tmp_path), **size, dtype="bfloat16").is_held_half
    assert "held in bfloat16" in caplog.text
    with pytest.raises(UserError, match=r"do not fit into the memory of cpu; use a smaller"):
        load_backbone(str(tmp_path), **size, dtype="float32")
