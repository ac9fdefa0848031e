"""A checkpoint survives the disk bit for bit, in files that diffusers reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dbbench.errors import UserError
from dbbench.generation.method import Checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    return Checkpoint(
        files={
            "unet/diffusion_pytorch_model.safetensors": {
                "weight": torch.randn(3, 2, generator=generator),
                "half": torch.randn(4, generator=generator).bfloat16(),
            },
            "learned_embeds.safetensors": {"<dog>": torch.randn(1, 8, generator=generator)},
        },
        metadata={"method": "dreambooth", "identifier": "sks", "seed": 3},
        losses=[0.1, 1 / 3, 0.25],
        configs={"unet/config.json": {"sample_size": 8}},
    )


def test_a_checkpoint_round_trip_is_exact(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    assert loaded.metadata == checkpoint.metadata
    assert loaded.losses == checkpoint.losses
    assert loaded.configs == checkpoint.configs
    assert loaded.files.keys() == checkpoint.files.keys()
    for name, tensors in checkpoint.files.items():
        assert loaded.files[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert loaded.files[name][key].dtype == tensor.dtype
            assert torch.equal(loaded.files[name][key], tensor)


def test_a_checkpoint_holds_safetensors_and_json_only(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}


@pytest.mark.parametrize("damage", ["missing", "truncated", "not json", "incomplete"])
def test_a_damaged_checkpoint_is_one_line_with_the_remedy(
    checkpoint: Checkpoint, tmp_path: Path, damage: str
) -> None:
    checkpoint.save(tmp_path)
    weights, document = tmp_path / "learned_embeds.safetensors", tmp_path / "checkpoint.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "not json":
        document.write_text("{")
    else:
        document.write_text(json.dumps({"files": []}))
    with pytest.raises(UserError, match="delete it to train again"):
        Checkpoint.load(tmp_path)


def test_the_seam_costs_no_torch() -> None:
    code = "import dbbench.generation.method, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
