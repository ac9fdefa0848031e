"""`dbbench data convert` reads what trainings leave, whole, and says what it leaves out."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dbbench.errors import UserError
from dbbench.generation.checkpoints.convert import convert


@pytest.mark.parametrize("zipped", [True, False])
def test_a_lightning_checkpoint_gives_its_weights(tmp_path: Path, zipped: bool) -> None:
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.randn(4, 4)}
    document = {
        "state_dict": weights,
        "epoch": 3,
        "hyper_parameters": argparse.Namespace(lr=1e-6),
        "callbacks": {argparse.Namespace: {"best": Path("x.ckpt"), "score": np.float64(0.5)}},
        "loops": defaultdict(dict, {"fit": {"done": 1}}),
    }
    torch.save(document, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    result = convert(tmp_path / "last.ckpt", tmp_path / "last.safetensors")
    found = load_file(tmp_path / "last.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert result.left_out == ["epoch", "hyper_parameters", "callbacks", "loops"]


@pytest.mark.parametrize("authors", [True, False])
def test_old_inversions_become_files_that_are_read(tmp_path: Path, authors: bool) -> None:
    vectors = torch.nn.Parameter(torch.randn(2, 32))
    named: Any = {"*": vectors}
    document = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict(named) if authors else named,
    }
    torch.save(document, tmp_path / "toy.pt")
    (written,) = convert(tmp_path / "toy.pt", tmp_path / "toy.safetensors").written
    assert torch.equal(load_file(written)["emb_params"], vectors.data)


def test_both_halves_of_an_adapter_are_kept(tmp_path: Path) -> None:
    halves = {"image_proj": {"norm.bias": torch.ones(2)}, "ip_adapter": {"1.x": torch.ones(3)}}
    torch.save(halves, tmp_path / "ip.bin")
    convert(tmp_path / "ip.bin", tmp_path / "ip.safetensors")
    assert load_file(tmp_path / "ip.safetensors").keys() == {
        "image_proj.norm.bias", "ip_adapter.1.x",
    }  # fmt: skip


def test_a_training_folder_gives_its_weights_and_names_the_rest(tmp_path: Path) -> None:
    old = tmp_path / "old"
    save(old / "unet" / "diffusion_pytorch_model.bin")
    save(old / "text_encoder" / "pytorch_model.fp16.bin")
    save(old / "checkpoint-5" / "unet" / "diffusion_pytorch_model.bin")
    save(old / "checkpoint-5" / "optimizer.bin")
    save(old / "checkpoint-5" / "scheduler.bin")
    (old / "checkpoint-5" / "random_states_0.pkl").write_bytes(b"\x80\x02.")
    result = convert(old, tmp_path / "new")
    assert [path.relative_to(tmp_path / "new").as_posix() for path in result.written] == [
        "checkpoint-5/unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert all(path.is_file() for path in result.written)
    assert result.left_out == [
        "checkpoint-5/optimizer.bin (an optimizer's state)",
        "checkpoint-5/random_states_0.pkl (random states)",
        "checkpoint-5/scheduler.bin (a learning-rate schedule)",
    ]
    assert not list((tmp_path / "new").rglob("*.pkl"))


def test_the_list_of_shards_follows_their_names(tmp_path: Path) -> None:
    old = tmp_path / "old"
    save(old / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (old / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    convert(old, tmp_path / "new")
    found = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert found["weight_map"] == {"w": "model-00001-of-00001.safetensors"}
    assert not (tmp_path / "new" / "pytorch_model.bin.index.json").exists()


@pytest.mark.parametrize("content", [b"", b"abc", b"version https://git-lfs\n"])
def test_what_fails_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    old = tmp_path / "old"
    save(old / "a.bin")
    (old / "b.bin").write_bytes(content)
    for _ in range(2):  # the second call meets the same error, not a half folder
        with pytest.raises(UserError, match=r"b\.bin") as caught:
            convert(old, tmp_path / "new")
        assert "\x1b" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def save(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.ones(2)}, file)
