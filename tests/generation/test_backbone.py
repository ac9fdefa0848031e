"""The backbone gives what diffusers and the papers' formulas give, and stays as it was loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_backbone
import torch
from PIL import Image

from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.noise import NoiseSchedule, build_solver
from dbbench.suites.sampling import SampleSettings, Scheduler

# diffusers' solvers convert tensors as NumPy 2 does not want it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a dog in the jungle", "a cat", "a red teapot on top of pink fabric", "a cat"]
SEEDS = [3, 1, 4, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


@pytest.mark.parametrize(
    "scheduler", ["ddim", "ddpm", "pndm", "dpmsolver++", "euler", "euler-ancestral", "unipc"]
)
def test_samples_equal_diffusers_own_pipeline_call(
    folder: Path, backbone: Backbone, scheduler: Scheduler
) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.scheduler = build_solver(scheduler, theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPTS,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images

    settings = SampleSettings(scheduler=scheduler, steps=5, guidance=4.0, batch_size=2)
    drawn = pixels(list(backbone.sample(PROMPTS, seeds=SEEDS, settings=settings)))

    difference = np.abs(drawn - pixels(expected)) / 255
    assert difference.mean() < 1e-4  # an eighth bit may round the other way
    assert difference.max() < 1.5 / 255
    assert np.abs(drawn[0] - drawn[2]).mean() > 2  # or the comparison would show nothing


def test_without_guidance_samples_equal_diffusers_too(folder: Path, backbone: Backbone) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a dog", num_inference_steps=4, guidance_scale=1.0, generator=torch.manual_seed(7)
    ).images
    settings = SampleSettings(steps=4, guidance=1.0)
    drawn = pixels(list(backbone.sample(["a dog"], seeds=[7], settings=settings)))
    assert np.abs(drawn - pixels(expected)).mean() / 255 < 1e-4


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpmsolver++"])
def test_an_image_depends_on_its_own_seed_and_prompt_only(
    backbone: Backbone, scheduler: Scheduler
) -> None:
    together = SampleSettings(scheduler=scheduler, steps=5, batch_size=16)
    alone = together.model_copy(update={"batch_size": 1})
    batched = pixels(list(backbone.sample(PROMPTS, seeds=SEEDS, settings=together)))
    single = pixels(list(backbone.sample(PROMPTS, seeds=SEEDS, settings=alone)))
    backwards = pixels(
        list(backbone.sample(PROMPTS[::-1], seeds=SEEDS[::-1], settings=together))[::-1]
    )
    assert np.abs(batched - single).max() <= 1
    assert np.abs(batched - backwards).max() <= 1
    assert np.abs(batched[1] - batched[3]).max() <= 1  # the same prompt and seed, twice


def test_the_same_seeds_give_the_same_bits(backbone: Backbone) -> None:
    settings = SampleSettings(scheduler="ddpm", steps=4, batch_size=3)
    first, second = (
        [im.tobytes() for im in backbone.sample(PROMPTS, seeds=SEEDS, settings=settings)]
        for _ in range(2)
    )
    assert first == second


def test_two_passes_may_be_read_in_turn(backbone: Backbone) -> None:
    settings = SampleSettings(steps=3, batch_size=1)
    alone = [im.tobytes() for im in backbone.sample(PROMPTS, seeds=SEEDS, settings=settings)]
    first = backbone.sample(PROMPTS, seeds=SEEDS, settings=settings)
    second = backbone.sample(PROMPTS[::-1], seeds=SEEDS, settings=settings)
    turns = [(one.tobytes(), next(second))[0] for one in first]
    assert turns == alone


def test_half_precision_is_in_the_arithmetic_only(folder: Path, backbone: Backbone) -> None:
    half = load_backbone(
        str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu", dtype="bfloat16"
    )
    assert {weight.dtype for weight in half.weights("unet").values()} == {torch.float32}
    states, exact = half.encode_prompts(PROMPTS), backbone.encode_prompts(PROMPTS)
    assert states.states.dtype == torch.float32
    assert 1e-4 < (states.states - exact.states).abs().max() < 0.1
    settings = SampleSettings(steps=3)
    (image,) = half.sample(["a dog"], seeds=[0], settings=settings)
    (expected,) = backbone.sample(["a dog"], seeds=[0], settings=settings)
    assert 0 < np.abs(pixels([image]) - pixels([expected])).mean() < 8
    assert half.fingerprint != backbone.fingerprint


def test_text_states_equal_the_pipelines(folder: Path, backbone: Backbone) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    expected, _ = theirs.encode_prompt(PROMPTS, "cpu", 1, False)
    torch.testing.assert_close(backbone.encode_prompts(PROMPTS).states, expected)
    assert expected.shape == (4, 24, 32)  # the tokenizer's own length


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noise_and_targets_follow_the_closed_form(prediction_type: str) -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    config = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
    }
    schedule = NoiseSchedule(config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    timesteps = torch.tensor([0, 500, 999])
    a = kept[timesteps].view(3, 1, 1, 1)
    closed_form = {
        "epsilon": noise.double(),
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * latents,
        "sample": latents.double(),
    }
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    torch.testing.assert_close(
        schedule.add_noise(latents, noise, timesteps).double(), noisy, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        schedule.target(latents, noise, timesteps).double(),
        closed_form[prediction_type],
        rtol=1e-4,
        atol=1e-5,
    )


def test_drawing_from_kept_latents_equals_encoding_each_time(backbone: Backbone) -> None:
    images = tiny_backbone.images(3)
    posterior = backbone.encode_posterior(images)
    vae = backbone.pipeline.vae
    tensor = torch.from_numpy(pixels(images) / 127.5 - 1).float().permute(0, 3, 1, 2)
    for seed in (0, 1):
        encoded = vae.encode(tensor).latent_dist.sample(torch.Generator().manual_seed(seed))
        noise = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(seed))
        drawn = posterior.draw(torch.arange(3), noise)
        torch.testing.assert_close(drawn, encoded * vae.config.scaling_factor)
    assert posterior.std.min() > 0


def test_restore_is_exact(backbone: Backbone) -> None:
    before = {part: backbone.weights(part) for part in ("unet", "text_encoder")}
    for part in ("unet", "text_encoder"):
        with torch.no_grad():
            for weight in backbone.trainable(part).values():
                weight.mul_(1.1).add_(0.01)
    backbone.restore()
    for part, weights in before.items():
        restored = backbone.weights(part)
        assert all(torch.equal(restored[name], weight) for name, weight in weights.items())
        assert not any(
            weight.requires_grad for weight in getattr(backbone.pipeline, part).parameters()
        )


def test_the_fingerprint_is_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    def load(path: Path, resolution: int = tiny_backbone.RESOLUTION) -> str:
        return load_backbone(str(path), resolution=resolution, device="cpu").fingerprint

    same = tiny_backbone.write(tmp_path / "same")
    other = tiny_backbone.write(tmp_path / "other", seed=1)
    assert load(folder) == load(same)
    assert len({load(folder), load(other), load(folder, resolution=32)}) == 3


def test_a_trained_backbone_keeps_the_fingerprint_it_was_loaded_with(folder: Path) -> None:
    backbone, untouched = (
        load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")
        for _ in range(2)
    )
    with torch.no_grad():
        next(iter(backbone.trainable("unet").values())).add_(1.0)
    assert backbone.fingerprint == untouched.fingerprint


def test_added_tokens_stand_for_their_vectors_and_change_nothing_else(backbone: Backbone) -> None:
    embedding = backbone.pipeline.text_encoder.get_input_embeddings()
    matrix = embedding.weight.clone()
    plain = backbone.encode_prompts(["a photo of a dog toy", "a cat"])
    row = {
        word: matrix[backbone.tokenizer.convert_tokens_to_ids(f"{word}</w>")]
        for word in ("dog", "toy")
    }
    with backbone.added_tokens({"<it>": [torch.stack([row["dog"], row["toy"]])]}):
        inside = backbone.encode_prompts(["a photo of a <it>", "a cat"])
    torch.testing.assert_close(inside.states, plain.states)
    assert backbone.pipeline.text_encoder.get_input_embeddings() is embedding
    assert torch.equal(embedding.weight, matrix)
    assert "<it>" not in backbone.tokenizer.get_vocab()


def test_a_token_of_the_vocabulary_cannot_be_added(backbone: Backbone) -> None:
    with (
        pytest.raises(UserError, match="rename"),
        backbone.added_tokens({"dog</w>": [torch.zeros(1, 32)]}),
    ):
        pass


def test_weights_of_another_backbone_are_refused(backbone: Backbone) -> None:
    state = backbone.weights("unet")
    state["conv_in.weight"] = torch.zeros(1, 2, 3, 3)
    with pytest.raises(UserError, match=r"does not fit .*conv_in"):
        backbone.load("unet", state)
    backbone.restore()


def test_a_resolution_that_the_autoencoder_cannot_make_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="17 is not a multiple of 2"):
        load_backbone(str(folder), resolution=17, device="cpu")


def test_an_autoencoder_of_our_own_loads_without_being_imported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbench.mini.autoencoder import PatchAutoencoder

    torch.manual_seed(0)
    vae = PatchAutoencoder(latent_channels=4, width=16, scaling_factor=0.5)
    folder = tiny_backbone.write(tmp_path / "patched", autoencoder=vae)
    monkeypatch.delitem(sys.modules, "dbbench.mini.autoencoder")

    backbone = load_backbone(str(folder), resolution=16, device="cpu")

    assert type(backbone.pipeline.vae).__name__ == "PatchAutoencoder"
    assert backbone.latent_shape == (4, 2, 2)
    posterior = backbone.encode_posterior(tiny_backbone.images(2))
    assert posterior.std.abs().max() == 0  # it has no deviation: nothing is drawn
    (image,) = backbone.sample(["a dog"], seeds=[0], settings=SampleSettings(steps=2))
    assert image.size == (16, 16)
