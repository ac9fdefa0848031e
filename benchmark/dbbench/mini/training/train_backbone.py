"""Trains the embedded backbone: first the autoencoder, then the text-to-image UNet.

The recipe: v-prediction (arXiv 2202.00512) on a cosine schedule, min-SNR-5 weighting
(arXiv 2303.09556), 10% of captions dropped for classifier-free guidance, AdamW, warm-up then cosine
decay, an exponential moving average of the weights. It is seeded and resumes from its last save.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dbbench.mini.autoencoder import PatchAutoencoder
from dbbench.mini.training.dataset import captions
from dbbench.mini.training.tokenizer import MAX_LENGTH, make_tokenizer
from dbbench.mini.training.train_loop import save_state, train_loop

CAPTIONS = 4  # different captions of each picture
LATENT_CHANNELS = 32


def images_to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """NHWC uint8 -> NCHW float32 in -1..1, channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def linear_autoencoder(pictures: NDArray[np.uint8], out: Path) -> PatchAutoencoder:
    """Return the autoencoder with its principal components, and an untrained decoder.

    The components are saved in `out`, so that all networks are trained on the same latents.
    """
    model: PatchAutoencoder = PatchAutoencoder(latent_channels=LATENT_CHANNELS)
    file = out / "components.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True)["model"])
    else:
        out.mkdir(parents=True, exist_ok=True)
        model.set_components(images_to_tensor(pictures[: min(len(pictures), 8000)]))
        save_state(file, model=model.state_dict())
    return model


def train_autoencoder(pictures: NDArray[np.uint8], out: Path, *, steps: int) -> None:
    """Find the principal components of 8x8 patches, then train the decoder's correction.

    A little noise is added to the latents, so that the decoder also corrects small errors of a
    diffusion model.
    """
    batch, seed = 32, 0
    torch.manual_seed(seed)
    model = linear_autoencoder(pictures, out)
    model.analysis.requires_grad_(False)
    model.to(memory_format=torch.channels_last)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        x = images_to_tensor(pictures[np.sort(rng.integers(0, len(pictures), batch))])
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            z = model.encode(x).latent_dist.mode()
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32))
        y = model.decode(z + 0.08 * noise).sample.float()
        return F.mse_loss(y, x) + 0.1 * F.l1_loss(y, x)

    train_loop(
        model, out / "autoencoder.pt", steps=steps, rate=2e-3, batch=batch, loss_of=loss_of,
        weight_decay=1e-4,
    )  # fmt: skip
    model.save_pretrained(out / "vae")
    with torch.no_grad():
        x = images_to_tensor(pictures[-512:])
        error = F.mse_loss(model(x).clamp(-1, 1), x).item() / 4
    (out / "autoencoder.json").write_text(json.dumps({"psnr_db": -10 * math.log10(error)}) + "\n")


def make_unet() -> UNet2DConditionModel:
    """Return an 8x8 UNet of 7.3 million weights, with self- and cross-attention at 8x8 and 4x4.

    Without attention at 8x8, patches of one object get different colors.
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: Any) -> CLIPTextModel:
    """Return a text encoder of two layers, 128 wide; it is trained together with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_scheduler() -> DDIMScheduler:
    """Return the noise schedule that the backbone is trained with."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="trailing",
    )


def tokenize_world(count: int, file: Path) -> NDArray[np.uint16]:
    """Return token ids of the captions, (count, CAPTIONS, MAX_LENGTH); cached in `file`."""
    if not file.exists():
        tokenizer = make_tokenizer()
        texts = [t for i in track(range(count), "captions") for t in captions(i, CAPTIONS)]
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH)
        np.save(file, np.asarray(ids.input_ids, dtype=np.uint16).reshape(count, CAPTIONS, -1))
    loaded: NDArray[np.uint16] = np.load(file)
    return loaded


@torch.no_grad()
def encode_world(pictures: NDArray[np.uint8], vae: PatchAutoencoder) -> Tensor:
    """Return the latents of all pictures, (count, channels, 8, 8), float16."""
    parts = []
    for start in range(0, len(pictures), 2000):
        x = images_to_tensor(pictures[start : start + 2000])
        parts.append(vae.encode(x).latent_dist.mode().half())
    return torch.cat(parts)


class _TextToImage(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.unet = make_unet().to(memory_format=torch.channels_last)
        self.text = make_text_encoder(tokenizer)


def train_backbone(pictures: NDArray[np.uint8], out: Path, *, steps: int, compile_: bool) -> None:
    """Train UNet and text encoder, and maintain a moving average of their weights."""
    batch, seed = 32, 0
    torch.manual_seed(seed)
    latents = encode_world(pictures, linear_autoencoder(pictures, out))
    tokens = torch.from_numpy(
        tokenize_world(len(pictures), out / f"tokens-{len(pictures)}.npy").astype(np.int64)
    )
    tokenizer = make_tokenizer()
    empty = torch.tensor(
        tokenizer("", padding="max_length", max_length=MAX_LENGTH).input_ids, dtype=torch.long
    )
    model = _TextToImage(tokenizer)
    average = copy.deepcopy(model).requires_grad_(False)
    signal = make_scheduler().alphas_cumprod
    forward = torch.compile(model.unet) if compile_ else model.unet

    def loss_of(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(latents), (batch,), generator=rng)
        z = latents[pick].float().contiguous(memory_format=torch.channels_last)
        which = torch.randint(CAPTIONS, (batch,), generator=rng)
        ids = tokens[pick, which]
        ids[torch.rand(batch, generator=rng) < 0.1] = empty
        # Stratified timesteps reduce the variance of the loss.
        t = ((torch.arange(batch) + torch.rand(batch, generator=rng)) / batch * 1000).long()
        noise = torch.randn(z.shape, generator=rng)
        a = signal[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * z + (1 - a).sqrt() * noise
        target = a.sqrt() * noise - (1 - a).sqrt() * z
        context = model.text(ids).last_hidden_state
        error = (forward(noisy, t, context).sample.float() - target).square().mean((1, 2, 3))
        snr = signal[t] / (1 - signal[t])
        loss: Tensor = (error * snr.clamp_max(5) / (snr + 1)).mean() * 2
        return loss

    @torch.no_grad()
    def follow(step: int) -> None:
        keep = min(0.9995, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)

    train_loop(
        model, out / "backbone.pt", steps=steps, rate=1e-3, batch=batch, loss_of=loss_of,
        after=follow, extra=average, warmup=300, hold=0.4, weight_decay=1e-3,
    )  # fmt: skip


def export_backbone(out: Path, folder: Path) -> None:
    """Write the averaged weights as a diffusers folder, float16 safetensors."""
    state = torch.load(out / "backbone.pt", weights_only=True)
    tokenizer = make_tokenizer()
    model = _TextToImage(tokenizer)
    model.load_state_dict(state["extra"])
    pipeline = StableDiffusionPipeline(
        vae=PatchAutoencoder.from_pretrained(out / "vae"),
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    config = folder / "vae" / "config.json"  # diffusers writes its source folder there
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
