"""Writes what suite `paper` asks the model hub for, with random weights, as an offline hub cache.

At real size: 5 GB. With `tiny` the same layout in small, and no encoders: those of mini do.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from dbbench.suites.suite import load_suite

BACKBONE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}
END = "<|endoftext|>"
TOKENIZER = {
    "model_max_length": 77,
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": "<|startoftext|>",
    "eos_token": END,
    "pad_token": END,
    "unk_token": END,
}


def write(out: Path, *, tiny: bool) -> None:
    """Write the hub cache into `out`: set HF_HOME to it, and HF_HUB_OFFLINE to 1."""
    torch.manual_seed(0)
    root = _snapshot(out, BACKBONE)
    _put(root / "model_index.json", INDEX)
    _put(root / "scheduler/scheduler_config.json", SCHEDULER)
    _put(root / "tokenizer/tokenizer_config.json", TOKENIZER)
    _put(root / "feature_extractor/preprocessor_config.json", {"size": 224, "crop_size": 224})
    _write_vocabulary(root / "tokenizer")
    width, depth = (64, 2) if tiny else (768, 12)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
        num_attention_heads=4 if tiny else 12, max_position_embeddings=77, projection_dim=width,
        hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(root / "text_encoder")
    small: dict[str, Any] = {"norm_num_groups": 16, "layers_per_block": 1} if tiny else {}
    unet = small | ({"block_out_channels": (32, 64, 64, 64)} if tiny else {})
    UNet2DConditionModel(cross_attention_dim=width, sample_size=64, **unet).save_pretrained(
        root / "unet"
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64) if tiny else (128, 256, 512, 512),
        **(small or {"layers_per_block": 2}),
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)  # or all its images would be much the same grey
    vae.save_pretrained(root / "vae")
    if not tiny:
        _write_encoders(out)


def _write_encoders(out: Path) -> None:
    dino = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    clip = open_clip.create_model("ViT-B-32-quickgelu")
    for name, file, model in (
        ("timm/vit_small_patch16_224.dino", "model.safetensors", dino),
        ("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors", clip),
    ):
        save_file(model.state_dict(), _snapshot(out, name) / file, metadata={"format": "pt"})


def _write_vocabulary(folder: Path) -> None:
    """Write CLIP's vocabulary, from the merges that open_clip carries."""
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(merge.split()) for merge in merges] + ["<|startoftext|>", END]
    _put(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")


def _snapshot(out: Path, name: str) -> Path:
    """Make the folder in which the hub's library looks for a repository."""
    folder = out / "hub" / f"models--{name.replace('/', '--')}"
    pinned = load_suite("paper").backbone
    made_up = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    revision = (name == pinned.path and pinned.revision) or made_up
    _put(folder / "refs" / "main", revision)
    place = folder / "snapshots" / revision
    place.mkdir(parents=True, exist_ok=True)
    return place


def _put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
