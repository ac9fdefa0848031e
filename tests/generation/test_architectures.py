"""Each kind of pipeline samples as diffusers does, behind one seam that looks the same."""

from __future__ import annotations

from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.noise import FlowSchedule, build_solver
from dbbench.suites.inheritance import suite_names
from dbbench.suites.sampling import SampleSettings, Scheduler
from dbbench.suites.suite import load_suite

KINDS: list[tiny_backbone.Kind] = ["sd", "sdxl", "sd3", "sd3-without-t5"]
PROMPTS = ["a dog in the jungle", "a red teapot on top of pink fabric"]
SEEDS = [3, 1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny_backbone.write(tmp_path_factory.mktemp(kind), kind=kind) for kind in KINDS}


@cache
def load(folder: Path) -> Backbone:
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def pixels(images: Any) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


@cache
def pipeline(folder: Path) -> Any:
    absent = {}
    if not (folder / "text_encoder_3").is_dir() and (folder / "transformer").is_dir():
        absent = {"text_encoder_3": None, "tokenizer_3": None}
    return DiffusionPipeline.from_pretrained(folder, **absent)


def theirs(folder: Path, scheduler: Scheduler, **call: Any) -> list[Image.Image]:
    pipe = copy(pipeline(folder))
    pipe.scheduler = build_solver(scheduler, pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    size = tiny_backbone.RESOLUTION
    images: list[Image.Image] = pipe(
        PROMPTS, generator=generators, num_inference_steps=4, height=size, width=size, **call
    ).images
    return images


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        ("sdxl", "euler"),
        ("sdxl", "ddim"),
        ("sd3", "euler"),
        ("sd3", "dpmsolver++"),
        ("sd3", "unipc"),
        ("sd3-without-t5", "euler"),
    ],
)
def test_samples_equal_diffusers_own_call(
    folders: dict[str, Path], kind: str, scheduler: Scheduler, guidance: float
) -> None:
    settings = SampleSettings(scheduler=scheduler, steps=4, guidance=guidance, batch_size=1)
    drawn = pixels(load(folders[kind]).sample(PROMPTS, seeds=SEEDS, settings=settings))
    expected = pixels(theirs(folders[kind], scheduler, guidance_scale=guidance))
    assert np.abs(drawn - expected).max() <= 1
    assert np.abs(drawn[0] - drawn[1]).mean() > 2  # or being equal would show nothing


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_any_backbone_as_it_was(folders: dict[str, Path], kind: str) -> None:
    backbone = load(folders[kind])
    before = {part: backbone.weights(part) for part in backbone.parts}
    images = tiny_backbone.images(2)
    latents = backbone.encode_posterior(images).mean
    assert latents.shape == (2, *backbone.latent_shape)
    for part in backbone.parts:
        backbone.trainable(part)
    text = backbone.encode_tokens(backbone.tokenize(PROMPTS))
    timesteps = backbone.schedule.draw([2], torch.Generator().manual_seed(0))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    loss = backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps)
    loss.sum().backward()
    with torch.no_grad():
        for part in backbone.parts:
            moved = [
                weight for weight in backbone.module(part).parameters() if weight.grad is not None
            ]
            assert moved
            for weight in moved:
                weight.sub_(weight.grad)
    backbone.restore()
    for part, state in before.items():
        after = backbone.weights(part)
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_word_reaches_every_text_encoder(folders: dict[str, Path], kind: str) -> None:
    backbone = load(folders[kind])
    (plain,) = backbone.encode_prompts(["a dog"]).states
    from dbbench.generation.tokens import embeddings_of

    vectors = [vector[None] for vector in embeddings_of(backbone, "dog")]
    assert len(vectors) == len(backbone.text_encoders)
    for changed in range(len(vectors)):
        words = [v.flip(-1) if n == changed else v for n, v in enumerate(vectors)]
        with backbone.added_tokens({"<it>": words}):
            (inside,) = backbone.encode_prompts(["a <it>"]).states
        assert (inside - plain).abs().max() > 1e-3
    assert torch.equal(backbone.encode_prompts(["a dog"]).states[0], plain)


def test_flow_matching_follows_the_closed_form() -> None:
    schedule = FlowSchedule({"num_train_timesteps": 1000, "shift": 3.0}, torch.device("cpu"))
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    place = (1000 - timesteps) / 1000
    sigma = (3 * place / (1 + 2 * place)).view(3, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    torch.testing.assert_close(schedule.add_noise(latents, noise, timesteps), noisy)
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), noise - latents)
    torch.testing.assert_close(schedule.times(timesteps), 1000 * sigma.flatten())


def test_flow_timesteps_are_logit_normal() -> None:
    schedule = FlowSchedule({"num_train_timesteps": 1000}, torch.device("cpu"))
    drawn = schedule.draw([20000], torch.Generator().manual_seed(0)).double()
    part = (drawn + 0.5) / 1000
    logits = torch.log(part / (1 - part))
    assert abs(float(logits.mean())) < 0.03
    assert abs(float(logits.std()) - 1) < 0.03


def test_a_solver_that_cannot_solve_a_flow_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match='"ddim" does not support .* use euler'):
        load(folders["sd3"]).sample(["a dog"], seeds=[0], settings=SampleSettings())


def test_a_resolution_that_the_patches_cannot_make_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="18 is not a multiple of 4"):
        load_backbone(str(folders["sd3"]), resolution=18, device="cpu")


def test_fingerprints_differ_between_kinds_and_not_between_loads(folders: dict[str, Path]) -> None:
    prints = {kind: load(folder).fingerprint for kind, folder in folders.items()}
    assert len(set(prints.values())) == len(KINDS)
    again = load_backbone(str(folders["sdxl"]), resolution=tiny_backbone.RESOLUTION, device="cpu")
    assert again.fingerprint == prints["sdxl"]


@pytest.mark.parametrize("name", suite_names())
def test_a_suites_solvers_fit_its_backbone(name: str) -> None:
    suite = load_suite(name)
    flow = "stable-diffusion-3" in suite.backbone.path
    kind = "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler"
    config = {"_class_name": kind, "num_train_timesteps": 1000, "beta_schedule": "scaled_linear"}
    for settings in (suite.sample, suite.prior.sampler):
        build_solver(settings.scheduler, config)
