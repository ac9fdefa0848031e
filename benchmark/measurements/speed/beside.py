"""Compares the speed of dbbench with a plain loop in the style of public training scripts.

The plain loop encodes images and text in each step, and samples one image per call. Method, steps,
batch size and sampler are the same. Both run in turn, as does the minimal part of a step that every
loop needs. On a CPU, times are CPU time of one thread, which other load disturbs little. The result
is the median of the ratios of all rounds.

python benchmark/measurements/speed/beside.py --out benchmark/measurements/results/speed-beside
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import DDPMScheduler
from rich.console import Console
from rich.table import Table

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.data.dataset import select_subjects
from dbbench.data.prompt import load_prompts
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Concept
from dbbench.generation.noise import build_solver
from dbbench.generation.pipelines.loading import load_pipeline
from dbbench.mini.source import MiniWorld
from dbbench.suites.sampling import SampleSettings
from dbbench.suites.suite import load_suite

WARMUP = 2  # steps that are not timed: memory is allocated, kernels are chosen


def train_plainly(pipe: Any, concept: Concept, settings: DreamBooth.Settings, device: str) -> float:
    """Fine-tune the UNet like the public scripts; return the seconds per step.

    Their data set opens, resizes and normalizes an image each time it is drawn. Their step encodes
    images and prompts, and runs the subject half and the class half as one batch.
    """
    unet, vae, text_encoder = pipe.unet, pipe.vae, pipe.text_encoder
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=settings.learning_rate, weight_decay=1e-2)
    size, half = concept.images[0].size, settings.batch_size
    prompts = [f"a sks {concept.class_noun}"] * half + [f"a {concept.class_noun}"] * half
    half_precision = device.startswith("cuda")
    began = 0.0
    for step in range(settings.steps):
        if step == WARMUP:
            began = now(device)
        batch = []
        for pool in (concept.images, concept.prior_images):
            for number in range(half):
                image = pool[(step * half + number) % len(pool)].convert("RGB").resize(size)
                array = np.asarray(image, dtype=np.float32) / 127.5 - 1
                batch.append(torch.from_numpy(array).permute(2, 0, 1))
        pixels = torch.stack(batch).contiguous().to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half_precision):
            latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
            ids = pipe.tokenizer(
                prompts, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            text = text_encoder(ids.to(device))[0]
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),), device=device)
            noisy = schedule.add_noise(latents, noise, timesteps)
            predicted = unet(noisy, timesteps, text).sample
            if schedule.config.prediction_type == "epsilon":
                target = noise
            else:
                target = schedule.get_velocity(latents, noise, timesteps)
        (subject, prior), (own, known) = predicted.chunk(2), target.chunk(2)
        loss = torch.nn.functional.mse_loss(subject.float(), own.float())
        loss = loss + settings.prior_weight * torch.nn.functional.mse_loss(
            prior.float(), known.float()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # the scripts read it in each step for a progress bar
    unet.requires_grad_(False).eval()
    return (now(device) - began) / (settings.steps - WARMUP)


def train_barely(pipe: Any, settings: DreamBooth.Settings, device: str) -> float:
    """Return the seconds of a minimal step: UNet, gradients, their norm, fused AdamW."""
    unet = pipe.unet.requires_grad_(True).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0.0, fused=True)  # weights do not change
    config, count = unet.config, 2 * settings.batch_size
    shape = (count, config.in_channels, config.sample_size, config.sample_size)
    latents, target = torch.randn(2, *shape, device=device)
    latents = latents.contiguous(memory_format=torch.channels_last)
    length = pipe.tokenizer.model_max_length
    text = torch.randn(count, length, config.cross_attention_dim, device=device)
    timesteps = torch.randint(0, 1000, (count,), device=device)
    began = 0.0
    for step in range(settings.steps):
        if step == WARMUP:
            began = now(device)
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=device.startswith("cuda")):
            predicted = unet(latents, timesteps, text).sample
        torch.nn.functional.mse_loss(predicted.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = (now(device) - began) / (settings.steps - WARMUP)
    unet.requires_grad_(False).to(memory_format=torch.contiguous_format)
    return seconds


def train_here(backbone: Backbone, concept: Concept, settings: DreamBooth.Settings) -> float:
    """Fit with dbbench; return the seconds per step, including setup and teardown."""
    began = now(str(backbone.device))
    DreamBooth(settings).fit(concept, backbone, seed=0, progress=lambda *_: None)
    return (now(str(backbone.device)) - began) / settings.steps


def sample_plainly(pipe: Any, texts: list[str], sample: SampleSettings, folder: Path) -> float:
    """Sample one image per call and write it before the next; return the seconds per image."""
    pipe.scheduler = build_solver(sample.scheduler, pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    device = str(pipe.device)
    began = now(device)
    for number, text in enumerate(texts):
        generator = torch.Generator().manual_seed(number)
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=device.startswith("cuda")):
            (image,) = pipe(
                text, num_inference_steps=sample.steps, guidance_scale=sample.guidance,
                generator=generator, height=sample_size(pipe), width=sample_size(pipe),
            ).images  # fmt: skip
        image.save(folder / f"{number}.png")
    return (now(device) - began) / len(texts)


def sample_here(
    backbone: Backbone, texts: list[str], sample: SampleSettings, folder: Path
) -> float:
    """Sample in batches, like the sample stage; return the seconds per image."""
    device = str(backbone.device)
    began = now(device)
    images = backbone.sample(texts, seeds=range(len(texts)), settings=sample)
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png", compress_level=1)
    return (now(device) - began) / len(texts)


def sample_size(pipe: Any) -> int:
    """Return the resolution that the pipeline was trained at."""
    return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)


def now(device: str) -> float:
    """Return the time after the device has finished its queue; on a CPU, the CPU time.

    With one thread, CPU time is independent of other load on the machine.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of measurement.")] = 3,
    steps: Annotated[int, typer.Option(min=4, help="Training steps per round.")] = 60,
    images: Annotated[int, typer.Option(min=1, help="Images per round.")] = 25,
    source: Annotated[str, typer.Option(help="Backbone: mini, a folder or a hub id.")] = "mini",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; times are CPU time.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Write the table as OUT.md, and all times as OUT.json.")
    ] = None,
) -> None:
    """Measure training and sampling with suite mini's settings, both ways in turn."""
    import tempfile

    torch.set_num_threads(threads)
    suite = load_suite("mini")
    size = sample_size(load_pipeline(source))
    backbone = load_backbone(source, resolution=size, device=device)
    pipe = load_pipeline(source).to(device)
    (subject,) = select_subjects(MiniWorld(), "dog")
    references = [r.image.resize((size, size)) for r in MiniWorld().images(subject, 64)]
    concept = Concept("dog", "dog", tuple(references), tuple(references * 5)[:24])
    recipe = {k: v for k, v in suite.methods["dreambooth"].items() if k != "steps"}
    settings = DreamBooth.Settings(**recipe, steps=steps, identifier=None)
    sample = suite.sample
    prompts = load_prompts(True) * (images // 25 + 1)
    texts = [prompt.render("", "dog") for prompt in prompts][:images]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ways: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
            "training, seconds a step": (
                lambda: train_plainly(pipe, concept, settings, device),
                lambda: train_here(backbone, concept, settings),
            ),
            "training, the part that no loop is spared": (
                lambda: train_plainly(pipe, concept, settings, device),
                lambda: train_barely(pipe, settings, device),
            ),
            "sampling, seconds an image": (
                lambda: sample_plainly(pipe, texts, sample, folder),
                lambda: sample_here(backbone, texts, sample, folder),
            ),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        console = Console()
        for turn in range(rounds):
            for name, (plain, here) in ways.items():
                times[name].append((plain(), here()))
                ratio = times[name][-1][0] / times[name][-1][1]
                console.print(f"round {turn + 1} of {rounds}: {name}: {ratio:.2f} times as fast")
    rows = [
        (
            name,
            statistics.median(plain for plain, _ in turns),
            statistics.median(here for _, here in turns),
            statistics.median(plain / here for plain, here in turns),
        )
        for name, turns in times.items()
    ]
    table = Table("what", "plain loop", "dbbench", "ratio (median of rounds)")
    for name, plain, here, ratio in rows:
        table.add_row(name, f"{plain:.3f}", f"{here:.3f}", f"{ratio:.2f}")
    console.print(table)
    if out is not None:
        document = {
            "source": source,
            "device": device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "steps": steps,
            "images": images,
            "times": times,
        }
        out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        lines = ["| what | plain loop | dbbench | ratio (median of rounds) |", "|---|---|---|---|"]
        lines += [f"| {n} | {p:.3f} | {h:.3f} | {r:.2f} |" for n, p, h, r in rows]
        out.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
