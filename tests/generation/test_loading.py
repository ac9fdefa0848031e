"""What cannot be loaded is refused in one line that says why and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import single_file
import tiny_backbone
import torch
from safetensors.torch import save_file

from dbbench.errors import UserError
from dbbench.generation.backbone import load_backbone
from dbbench.generation.pipelines.loading import load_pipeline
from dbbench.suites.sampling import SampleSettings


def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "v1-5.ckpt"
    checkpoint.write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"pickled.*convert it once.*dbbench data convert"):
        load_pipeline(str(checkpoint))


def test_a_folder_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_backbone.write(tmp_path)
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.bin is pickled"):
        load_pipeline(str(folder))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny_backbone.write(tmp_path)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"vae holds no \.safetensors weights"):
        load_pipeline(str(folder))


def test_truncated_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny_backbone.write(tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load the backbone") as caught:
        load_pipeline(str(folder))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        load_pipeline(str(tmp_path))


def test_a_pipeline_of_an_unsupported_class_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match=r"is a FluxPipeline.*give a StableDiffusionPipeline,"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_every_text_encoder_has_to_be_there(tmp_path: Path, kind: tiny_backbone.Kind) -> None:
    folder = tiny_backbone.write(tmp_path, kind=kind)
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"text_encoder_2 holds no \.safetensors weights"):
        load_pipeline(str(folder))


def test_a_hub_id_without_a_network_is_one_line_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r'"nobody/nothing".*hf download.*give FOLDER') as caught:
        load_pipeline("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "nonsense", "lost.safetensors"])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(UserError, match="it is no folder"):
        load_pipeline(source)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="cannot load the checkpoint"):
        load_pipeline(str(file))


def test_a_single_file_is_the_same_backbone_as_its_folder(tmp_path: Path) -> None:
    folder = tiny_backbone.write(tmp_path / "folder")
    file = single_file.write(load_pipeline(str(folder)), tmp_path / "one.safetensors")
    backbones = [
        load_backbone(source, resolution=tiny_backbone.RESOLUTION, device="cpu", config=config)
        for source, config in ((str(folder), None), (str(file), str(folder)))
    ]
    for part in backbones[0].parts:
        whole, one = (backbone.weights(part) for backbone in backbones)
        assert whole.keys() == one.keys()
        assert all(torch.equal(one[name], tensor) for name, tensor in whole.items())
    settings = SampleSettings(steps=2)
    images = [
        next(backbone.sample(["a dog"], seeds=[0], settings=settings)).tobytes()
        for backbone in backbones
    ]
    assert images[0] == images[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no CUDA device for "cuda"'):
        load_backbone(str(tmp_path), resolution=16, device="cuda")


def test_the_safety_checker_is_never_loaded(tmp_path: Path) -> None:
    folder = tiny_backbone.write(tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert load_pipeline(str(folder)).safety_checker is None  # its weights are not even there
