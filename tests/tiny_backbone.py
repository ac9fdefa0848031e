"""A random Stable Diffusion of 16 pixels, made of the real classes, for tests to load and train."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

RESOLUTION = 16
# Common words first and rare ones last, as in CLIP's own vocabulary.
WORDS = """
a an the photo picture of in on top with and red purple shiny wet cube shaped dog cat toy stuffed
animal teapot jungle snow beach street pink fabric wooden floor city background rendering good
sks zwx ohw qub vyk jaf wuz xop kij pog lyx fep hov gud myb ruk zif bym cez dax
""".split()  # noqa: SIM905


def write(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    seed: int = 0,
    autoencoder: torch.nn.Module | None = None,
) -> Path:
    """Write the backbone into `folder` as diffusers lays it out, and return the folder.

    An `autoencoder` of another class is entered under its own module's name.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = _pipeline(prediction_type)
    if autoencoder is not None:
        pipeline.vae = autoencoder
    transformers_logging.disable_progress_bar()
    pipeline.save_pretrained(folder)
    if autoencoder is not None:
        kind = type(autoencoder)
        index = json.loads((folder / "model_index.json").read_text())
        index["vae"] = [kind.__module__, kind.__name__]
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def images(count: int, *, seed: int = 0) -> list[Image.Image]:
    """Smooth random pictures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 4, 4, 3, generator=generator).mul(255).byte().numpy()
    size = (RESOLUTION, RESOLUTION)
    return [Image.fromarray(array).resize(size, Image.Resampling.BICUBIC) for array in coarse]


def tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer to which each of WORDS is one token, and other words are several."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        while len(parts := _split(word, merges)) > 1:
            merges.append((parts[0], parts[1]))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=24)


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Merge the letters of `word` as byte-pair encoding does: the earliest known pair first."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while known := [pair for pair in pairwise(parts) if pair in merges]:
        at = list(pairwise(parts)).index(min(known, key=merges.index))
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    return parts


def _pipeline(prediction_type: str) -> StableDiffusionPipeline:
    words = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=RESOLUTION,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)  # or all its images would be much the same grey
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
