"""Measures steps and images per second, peak memory, and the share of a device's FLOP rate.

Speed does not depend on trained weights: `sd15` is Stable Diffusion 1.5 in its public configuration
with random weights. Operations are counted on the network itself. The device's rate is measured
first, with one large matrix product. `--count` only prints operations, without using a device.

# on a GPU:
python benchmark/measurements/speed/throughput.py --model sd15 --resolution 512 --batch 1,2,4,8
# on a CPU:
python benchmark/measurements/speed/throughput.py --model sd15 --resolution 64 --batch 1 --steps 2
python benchmark/measurements/speed/throughput.py --model mini --batch 8
python benchmark/measurements/speed/throughput.py --count
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from dbbench.generation.backbone import Backbone
from dbbench.generation.pipelines.loading import load_pipeline
from dbbench.generation.text import EncodedText
from dbbench.storage.events import peak_memory
from dbbench.suites.sampling import SampleSettings
from dbbench.units import per_second

FOUR = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def stable_diffusion_15() -> Any:
    """Build SD 1.5 with random weights; the tokenizer is mini's, because the text is short."""
    tokenizer = load_pipeline("mini").tokenizer
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu",
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(cross_attention_dim=768),
        vae=AutoencoderKL(**FOUR),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of one large matrix product, the best of ten."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = now(device)
        a @ b
        best = min(best, now(device) - began)
    return 2 * size**3 / best


def operations(backbone: Backbone, batch: int) -> tuple[float, float]:
    """Return the operations of the denoiser for a batch: one forward pass, one training step."""
    latents, text, timesteps = inputs(backbone, batch)
    noise = torch.randn_like(latents)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps)
    backbone.trainable(backbone.denoiser)
    with FlopCounterMode(display=False) as both:
        backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps).sum().backward()
    clear(backbone)
    return float(forward.get_total_flops()), float(both.get_total_flops())


def inputs(backbone: Backbone, batch: int) -> tuple[Tensor, EncodedText, Tensor]:
    """Return random latents and timesteps, and an encoded text."""
    latents = torch.randn(batch, *backbone.latent_shape, device=backbone.device)
    text = backbone.encode_prompts(["a dog"]).repeat(batch)
    return latents, text, torch.randint(1000, (batch,), device=backbone.device)


def train(backbone: Backbone, batch: int, steps: int) -> float:
    """Return the median seconds of a training step of the whole denoiser."""
    latents, text, timesteps = inputs(backbone, batch)
    weights = list(backbone.trainable(backbone.denoiser).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-9, fused=True)
    times = []
    for _ in range(steps + 1):
        began = now(str(backbone.device))
        noise = torch.randn_like(latents)
        errors = backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps)
        errors.mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(now(str(backbone.device)) - began)
    clear(backbone)
    return statistics.median(times[1:])


def sample(backbone: Backbone, batch: int, steps: int) -> float:
    """Return the seconds per image for `steps` solver steps, with guidance and decoding."""
    settings = SampleSettings(steps=steps, guidance=7.5, batch_size=batch)
    began = now(str(backbone.device))
    list(backbone.sample(["a dog"] * batch, seeds=range(batch), settings=settings))
    return (now(str(backbone.device)) - began) / batch


def clear(backbone: Backbone) -> None:
    """Remove the gradients and freeze the weights."""
    for weight in backbone.module(backbone.denoiser).parameters():
        weight.grad = None
        weight.requires_grad_(False)


def now(device: str) -> float:
    """Return the time after the device has finished its queue."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def count() -> None:
    """Print the operations of one pass of each public configuration, for planning/known.py."""
    one = torch.zeros(1)
    with torch.device("meta"):
        first = UNet2DConditionModel(cross_attention_dim=768)
        second = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )  # fmt: skip
        large = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        third = SD3Transformer2DModel(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
            joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=192,
        )  # fmt: skip
        added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
        one = one.to("meta")
        text = {width: torch.zeros(1, 77, width) for width in (768, 1024, 2048)}
        passes = {
            "Stable Diffusion 1.5, 512 px": lambda: first(
                torch.zeros(1, 4, 64, 64), one, text[768]
            ),
            "Stable Diffusion 2.1, 768 px": lambda: second(
                torch.zeros(1, 4, 96, 96), one, text[1024]
            ),
            "SDXL, 1024 px": lambda: large(
                torch.zeros(1, 4, 128, 128), one, text[2048], added_cond_kwargs=added
            ),
            "Stable Diffusion 3 medium, 1024 px": lambda: third(
                torch.zeros(1, 16, 128, 128), torch.zeros(1, 333, 4096), torch.zeros(1, 2048), one
            ),
        }
        for name, run in passes.items():
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                run()
            print(f"{name}: {counter.get_total_flops() / 1e12:.3f} TFLOP")


def main(
    model: Annotated[str, typer.Option(help="sd15, mini, or a backbone's folder.")] = "mini",
    resolution: Annotated[int | None, typer.Option(help="Default: 512, 64 for mini.")] = None,
    batch: Annotated[str, typer.Option(help="Images per step: 1,2,4")] = "1,8",
    steps: Annotated[int, typer.Option(min=1, help="Number of timed steps.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the denoiser.")] = False,
    counting: Annotated[bool, typer.Option("--count", help="Only count operations.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
) -> None:
    """Measure training of the whole denoiser, and sampling, at each batch size."""
    if counting:
        count()
        return
    pipeline = stable_diffusion_15() if model == "sd15" else load_pipeline(model)
    side = resolution or (64 if model == "mini" else 512)
    backbone = Backbone(pipeline, resolution=side, device=device, compile=compiled)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    rate = matrix_rate(device, dtype)
    console = Console()
    console.print(f"one matrix product: {rate / 1e12:.3f} TFLOP/s in {dtype}")
    table = Table("batch", "steps/s", "images/s", "peak GiB", "train TFLOP/s", "of product")
    rows = []
    for size in map(int, batch.split(",")):
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        _, in_step = operations(backbone, size)
        step = train(backbone, size, steps)
        image = sample(backbone, size, steps) / steps  # per solver step
        peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else peak_memory()
        row = {
            "batch": size, "steps_per_second": 1 / step, "images_per_second_50": 1 / (50 * image),
            "peak_bytes": peak, "flops_per_second": in_step / step,
            "share_of_matrix_product": in_step / step / rate,
        }  # fmt: skip
        rows.append(row)
        table.add_row(
            str(size), per_second(1 / step), per_second(1 / (50 * image)),
            f"{(peak or 0) / 2**30:.1f}", f"{in_step / step / 1e12:.3g}",
            f"{in_step / step / rate:.0%}",
        )  # fmt: skip
    console.print(table)
    console.print("images/s: 50 steps with guidance, from the time of a shorter pass")
    if out is not None:
        document = {
            "model": model, "resolution": side, "device": device, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "compiled": compiled,
            "matrix_product_flops": rate, "rows": rows,
        }  # fmt: skip
        out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
