"""Textual Inversion learns its own vectors and nothing else, in a file that diffusers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
import torch
from diffusers import StableDiffusionPipeline

from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.data.prompt import NEUTRAL_TEMPLATES, load_prompts
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Checkpoint, Concept
from dbbench.suites.sampling import SampleSettings

CONCEPT = Concept(
    name="Wolf_plushie 2", class_noun="stuffed animal", images=tuple(tiny_backbone.images(3))
)
TOKEN = "<wolf-plushie-2>"
EMBEDS = "learned_embeds.safetensors"
QUICK: dict[str, Any] = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def fit(backbone: Backbone, *, seed: int = 0, **settings: Any) -> Checkpoint:
    method = TextualInversion(TextualInversion.Settings(**{**QUICK, **settings}))
    return method.fit(CONCEPT, backbone, seed=seed, progress=lambda done, total, shown: None)


def loss_with(backbone: Backbone, vectors: torch.Tensor) -> float:
    """The denoising loss of the concept's images over fixed noise, under the new word."""
    generator = torch.Generator().manual_seed(99)
    latents = backbone.encode_posterior(CONCEPT.images).mean.repeat(32, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(1000, (len(latents),), generator=generator)
    with torch.no_grad(), backbone.added_tokens({TOKEN: [vectors]}):
        text = backbone.encode_prompts([f"a photo of a {TOKEN}"]).repeat(len(latents))
        return float(
            backbone.denoising_loss(latents, text, noise=noise, timesteps=timesteps).mean()
        )


def test_the_loss_goes_down(backbone: Backbone) -> None:
    before = fit(backbone, steps=1, learning_rate=1e-9).files[EMBEDS][TOKEN]
    after = fit(backbone, steps=60, learning_rate=5e-2).files[EMBEDS][TOKEN]
    assert loss_with(backbone, after) < loss_with(backbone, before)


@pytest.mark.parametrize("n_vectors", [1, 3])
def test_the_vectors_begin_at_the_class_nouns(backbone: Backbone, n_vectors: int) -> None:
    matrix = backbone.pipeline.text_encoder.get_input_embeddings().weight
    ids = backbone.tokenizer.convert_tokens_to_ids(["stuffed</w>", "animal</w>"])
    learned = fit(backbone, steps=1, learning_rate=1e-9, n_vectors=n_vectors).files[EMBEDS][TOKEN]
    expected = matrix[ids].mean(dim=0).expand(n_vectors, -1)
    torch.testing.assert_close(learned, expected)


def test_every_weight_of_the_backbone_stays_bit_identical(backbone: Backbone) -> None:
    parts = ("unet", "text_encoder", "vae")
    before = {
        part: {name: t.clone() for name, t in getattr(backbone.pipeline, part).state_dict().items()}
        for part in parts
    }
    words = len(backbone.tokenizer)
    checkpoint = fit(backbone)
    for part in parts:
        after = getattr(backbone.pipeline, part).state_dict()
        assert after.keys() == before[part].keys()
        assert all(torch.equal(after[name], t) for name, t in before[part].items())
        assert all(w.grad is None for w in getattr(backbone.pipeline, part).parameters())
    assert len(backbone.tokenizer) == words
    assert {name: set(tensors) for name, tensors in checkpoint.files.items()} == {EMBEDS: {TOKEN}}


def test_each_of_several_vectors_learns(backbone: Backbone) -> None:
    start = fit(backbone, steps=1, learning_rate=1e-9, n_vectors=3).files[EMBEDS][TOKEN]
    learned = fit(backbone, n_vectors=3).files[EMBEDS][TOKEN]
    assert ((learned - start).abs().amax(dim=1) > 1e-3).all()
    assert not torch.equal(learned[0], learned[1])


@pytest.mark.parametrize("n_vectors", [1, 2])
def test_diffusers_loads_the_vectors_and_draws_the_same_image(
    backbone: Backbone, folder: Path, tmp_path: Path, n_vectors: int
) -> None:
    checkpoint = fit(backbone, n_vectors=n_vectors, learning_rate=0.3)
    checkpoint.save(tmp_path)
    prompts = load_prompts(live=True)[:2]
    ours = list(
        TextualInversion().generate(
            Checkpoint.load(tmp_path),
            prompts,
            "stuffed animal",
            backbone,
            seeds=[8, 9],
            sample=SampleSettings(steps=4),
        )
    )

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.load_textual_inversion(str(tmp_path), weight_name=EMBEDS)
    text = f"a {TOKEN} in the snow"
    assert prompts[1].render(TOKEN, "") == text
    theirs = pipe(text, num_inference_steps=4, generator=torch.manual_seed(9)).images[0]
    assert np.abs(np.asarray(ours[1], float) - np.asarray(theirs, float)).max() <= 1

    plain = pipe(
        "a stuffed animal in the snow", num_inference_steps=4, generator=torch.manual_seed(9)
    )
    assert np.abs(np.asarray(ours[1], float) - np.asarray(plain.images[0], float)).mean() > 0.1


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones(backbone: Backbone) -> None:
    first, second, other = (fit(backbone, seed=seed).files[EMBEDS][TOKEN] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_templates_are_neutral_and_distinct() -> None:
    assert len(set(NEUTRAL_TEMPLATES)) == 27
    assert all(template.count("{}") == 1 for template in NEUTRAL_TEMPLATES)


def test_a_template_that_cuts_the_new_word_off_is_not_used(backbone: Backbone) -> None:
    long = "extraordinarily photographed {}"  # unknown words are spelled, past the text's end
    mixed = fit(backbone, templates=("a {}", long)).files[EMBEDS][TOKEN]
    assert torch.equal(mixed, fit(backbone, templates=("a {}",)).files[EMBEDS][TOKEN])
    with pytest.raises(UserError, match="no template leaves room for 1 vectors in 24 tokens"):
        fit(backbone, templates=(long,))


def test_the_class_noun_is_not_said_beside_the_new_word(backbone: Backbone) -> None:
    checkpoint = fit(backbone)
    prompts = load_prompts(live=True)[:1]
    by_noun = [
        next(
            TextualInversion().generate(
                checkpoint, prompts, noun, backbone, seeds=[1], sample=SampleSettings(steps=2)
            )
        ).tobytes()
        for noun in ("stuffed animal", "teapot")
    ]
    assert by_noun[0] == by_noun[1]
