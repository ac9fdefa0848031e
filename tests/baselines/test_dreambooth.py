"""DreamBooth does what its paper says, changes the UNet only, and leaves the backbone as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.training import TrainSettings, encode_references, learning_rate, step_batches
from dbbench.data.prompt import load_prompts
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Checkpoint, Concept
from dbbench.generation.tokens import choose_identifier, rare_tokens
from dbbench.suites.sampling import SampleSettings

CONCEPT = Concept(
    name="plushie",
    class_noun="stuffed animal",
    images=tuple(tiny_backbone.images(3)),
    prior_images=tuple(tiny_backbone.images(8, seed=1)),
)
UNET = "unet/diffusion_pytorch_model.safetensors"
QUICK: dict[str, Any] = {"steps": 3, "learning_rate": 1e-3, "batch_size": 2, "identifier": "sks"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def fit(backbone: Backbone, *, seed: int = 0, **settings: Any) -> Checkpoint:
    method = DreamBooth(DreamBooth.Settings(**{**QUICK, **settings}))
    return method.fit(CONCEPT, backbone, seed=seed, progress=lambda done, total, shown: None)


def loss_on(
    backbone: Backbone, images: tuple[Image.Image, ...], prompt: str, checkpoint: Checkpoint | None
) -> float:
    """The denoising loss over fixed noise and timesteps, under the checkpoint's UNet."""
    if checkpoint is not None:
        backbone.load("unet", checkpoint.files[UNET])
    generator = torch.Generator().manual_seed(99)
    losses = []
    with torch.no_grad():
        latents = backbone.encode_posterior(images).mean.repeat(16, 1, 1, 1)
        text = backbone.encode_prompts([prompt]).repeat(len(latents))
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (len(latents),), generator=generator)
        losses.append(backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps))
    backbone.restore()
    return float(torch.cat(losses).mean())


@pytest.fixture(scope="module")
def with_prior(backbone: Backbone) -> Checkpoint:
    return fit(backbone, steps=90, learning_rate=2e-3)


@pytest.fixture(scope="module")
def without_prior(backbone: Backbone) -> Checkpoint:
    return fit(backbone, steps=90, learning_rate=2e-3, prior_weight=0.0)


def test_the_loss_goes_down(with_prior: Checkpoint, without_prior: Checkpoint) -> None:
    for checkpoint in (with_prior, without_prior):
        assert len(checkpoint.losses) == 90
        assert np.mean(checkpoint.losses[-30:]) < 0.8 * np.mean(checkpoint.losses[:10])


def test_the_trained_unet_knows_its_images_better_than_the_pristine_one(
    backbone: Backbone, with_prior: Checkpoint
) -> None:
    prompt = "a sks stuffed animal"
    before = loss_on(backbone, CONCEPT.images, prompt, None)
    assert loss_on(backbone, CONCEPT.images, prompt, with_prior) < 0.8 * before


def test_the_prior_loss_keeps_the_class(
    backbone: Backbone, with_prior: Checkpoint, without_prior: Checkpoint
) -> None:
    prompt = "a stuffed animal"
    kept = loss_on(backbone, CONCEPT.prior_images, prompt, with_prior)
    assert kept < loss_on(backbone, CONCEPT.prior_images, prompt, without_prior)


def test_what_is_frozen_is_bit_identical_and_the_backbone_is_pristine_again(
    backbone: Backbone,
) -> None:
    def state() -> dict[str, torch.Tensor]:
        parts = ("unet", "text_encoder", "vae")
        return {
            f"{part}.{name}": tensor.clone()
            for part in parts
            for name, tensor in getattr(backbone.pipeline, part).state_dict().items()
        }

    before = state()
    checkpoint = fit(backbone)
    after = state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert set(checkpoint.files) == {UNET}
    learned = checkpoint.files[UNET]
    assert any(not torch.equal(learned[name], before[f"unet.{name}"]) for name in learned)


def test_the_backbone_is_pristine_again_when_training_diverges(backbone: Backbone) -> None:
    before = backbone.weights("unet")
    with pytest.raises(FloatingPointError, match=r"at step \d+; lower the learning rate"):
        fit(backbone, steps=40, learning_rate=1e30, max_grad_norm=1e30)
    after = backbone.weights("unet")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones(backbone: Backbone) -> None:
    first, second, other = (fit(backbone, seed=seed).files[UNET] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_diffusers_and_transformers_load_the_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    checkpoint = fit(backbone, train_text_encoder=True)
    checkpoint.save(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    text_encoder = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    for module, file in ((unet, UNET), (text_encoder, "text_encoder/model.safetensors")):
        state = module.state_dict()
        assert all(torch.equal(state[name], t) for name, t in checkpoint.files[file].items())
    assert str(tmp_path.parent) not in (tmp_path / "unet" / "config.json").read_text()


def test_images_come_from_the_trained_weights_and_leave_the_backbone_pristine(
    backbone: Backbone, folder: Path, with_prior: Checkpoint
) -> None:
    prompts = load_prompts(live=False)[:3]
    sample = SampleSettings(steps=3, batch_size=2)
    before = backbone.weights("unet")
    images = list(
        DreamBooth().generate(
            with_prior, prompts, "stuffed animal", backbone, seeds=[4, 5, 6], sample=sample
        )
    )
    texts = [prompt.render("sks", "stuffed animal") for prompt in prompts]
    pristine = list(backbone.sample(texts, seeds=[4, 5, 6], settings=sample))
    assert all(torch.equal(backbone.weights("unet")[name], w) for name, w in before.items())

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.unet.load_state_dict(with_prior.files[UNET])
    theirs = pipe(texts[1], num_inference_steps=3, generator=torch.manual_seed(5)).images[0]
    ours = np.asarray(images[1], float)
    assert np.abs(ours - np.asarray(theirs, float)).max() <= 1
    assert np.abs(ours - np.asarray(pristine[1], float)).mean() > 1


def test_the_prior_loss_without_images_says_what_to_set(backbone: Backbone) -> None:
    concept = Concept(name="dog", class_noun="dog", images=CONCEPT.images)
    assert DreamBooth().needs_prior
    assert not DreamBooth(DreamBooth.Settings(prior_weight=0)).needs_prior
    with pytest.raises(UserError, match='"dog" has no prior images; set prior.count'):
        DreamBooth().fit(concept, backbone, seed=0, progress=lambda *_: None)


def test_mirrored_images_are_drawn_in_half_of_the_steps(backbone: Backbone) -> None:
    settings = TrainSettings(steps=200, batch_size=2, horizontal_flip=True)
    posterior = encode_references(backbone, [CONCEPT.images], flip=True)
    index = torch.cat([draw.index for draw in step_batches(backbone, settings, pools=[3], seed=0)])
    assert set(index.tolist()) == set(range(6))
    assert 0.4 < (index >= 3).float().mean() < 0.6
    mirrored = CONCEPT.images[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    torch.testing.assert_close(posterior.mean[4:5], backbone.encode_posterior([mirrored]).mean)


def test_every_image_is_drawn_equally_often(backbone: Backbone) -> None:
    settings = TrainSettings(steps=12, batch_size=2)
    index = torch.stack([b.index for b in step_batches(backbone, settings, pools=[3, 4], seed=0)])
    assert index[:, :2].flatten().bincount().tolist() == [8, 8, 8]
    assert index[:, 2:].flatten().bincount().tolist() == [0, 0, 0, 6, 6, 6, 6]


def test_the_learning_rate_warms_up_and_then_follows_its_schedule() -> None:
    settings = TrainSettings(steps=12, learning_rate=1.0, warmup_steps=2, lr_schedule="cosine")
    rates = [learning_rate(settings, step) for step in range(12)]
    half_wave = [(1 + np.cos(np.pi * k / 10)) / 2 for k in range(10)]
    np.testing.assert_allclose(rates, [0.5, 1.0, *half_wave])
    assert learning_rate(TrainSettings(learning_rate=0.25), 999) == 0.25


def test_the_identifier_is_drawn_among_rare_words_and_recorded(backbone: Backbone) -> None:
    rare = rare_tokens(backbone.tokenizer)
    assert set(rare) <= set(tiny_backbone.WORDS[-20:])
    drawn = {choose_identifier(backbone.tokenizer, None, seed=seed) for seed in range(30)}
    assert drawn <= set(rare)
    assert len(drawn) > 5
    checkpoint = fit(backbone, identifier=None, seed=7)
    assert checkpoint.metadata["identifier"] == choose_identifier(backbone.tokenizer, None, seed=7)
    assert fit(backbone).metadata["identifier"] == "sks"


def test_an_identifier_of_several_tokens_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r'"xyzzy" is 5 tokens.*such as "sks"'):
        fit(backbone, identifier="xyzzy")


@pytest.mark.parametrize("word", ["dog", "red", "jungle", "a"])
def test_an_identifier_that_means_something_is_refused(backbone: Backbone, word: str) -> None:
    with pytest.raises(UserError, match=rf'"{word}" is a common word .* such as "sks"'):
        fit(backbone, identifier=word)


def test_progress_ends_at_the_last_step(backbone: Backbone) -> None:
    seen: list[tuple[int, int, dict[str, float]]] = []
    method = DreamBooth(DreamBooth.Settings(**QUICK))
    checkpoint = method.fit(CONCEPT, backbone, seed=0, progress=lambda *call: seen.append(call))
    assert seen[-1][:2] == (3, 3)
    assert set(seen[-1][2]) == {"loss"}
    assert len(checkpoint.losses) == 3
