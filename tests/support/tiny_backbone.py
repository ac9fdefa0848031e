"""Random backbones of 16 pixels, made of the real classes, for tests to load and train."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.utils import logging as transformers_logging

Kind = Literal["sd", "sdxl", "sd3", "sd3-without-t5"]

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
    kind: Kind = "sd",
    prediction_type: str = "epsilon",
    seed: int = 0,
    autoencoder: torch.nn.Module | None = None,
) -> Path:
    """Write the backbone into `folder` as diffusers lays it out, and return the folder.

    An `autoencoder` of another class is entered under its own module's name.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = _pipeline(kind, prediction_type)
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


def _pipeline(kind: Kind, prediction_type: str) -> DiffusionPipeline:
    if kind == "sdxl":
        return _stable_diffusion_xl(prediction_type)
    if kind == "sd":
        return _stable_diffusion(prediction_type)
    return _stable_diffusion_3(with_t5=kind == "sd3")


def _stable_diffusion(prediction_type: str) -> StableDiffusionPipeline:
    words = tokenizer()
    return StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=32),
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_clip(words)),
        tokenizer=words,
        scheduler=DDIMScheduler(
            **NOISE, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl(prediction_type: str) -> StableDiffusionXLPipeline:
    words = tokenizer()
    return StableDiffusionXLPipeline(
        unet=_unet(
            cross_attention_dim=32 + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
        ),
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_clip(words)),
        tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(_clip(words, width=24, projection=20)),
        tokenizer_2=tokenizer(),
        scheduler=EulerDiscreteScheduler(
            **NOISE, timestep_spacing="leading", prediction_type=prediction_type
        ),
        add_watermarker=False,
    )


def _stable_diffusion_3(*, with_t5: bool) -> StableDiffusion3Pipeline:
    words, pieces = tokenizer(), _pieces()
    t5 = T5Config(
        vocab_size=len(pieces), d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=16 + 20,
            pos_embed_max_size=8,
        ),
        vae=_autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(_clip(words, projection=16)),
        tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(_clip(words, width=24, projection=20)),
        tokenizer_2=tokenizer(),
        text_encoder_3=T5EncoderModel(t5) if with_t5 else None,
        tokenizer_3=pieces if with_t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


NOISE: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


def _pieces() -> T5Tokenizer:
    """T5's kind of tokenizer: whole words, and letters for the rest."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS if word != "a"]
    pieces += [("▁a", -2.0), *((letter, -9.0) for letter in letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def _clip(words: CLIPTokenizer, *, width: int = 32, projection: int = 16) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection,
        max_position_embeddings=24,
        bos_token_id=words.bos_token_id,
        eos_token_id=2,  # as in the published configs, whose end token is 49407
        pad_token_id=words.pad_token_id,
    )


def _unet(**config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=8,
        **config,
    )


def _autoencoder(**config: Any) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        **config,
    )
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(8)  # or all its images would be much the same grey
    return vae
