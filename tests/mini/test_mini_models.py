"""The embedded models are what their names say, on identities that they never saw."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dbbench.data.prompt import load_prompts
from dbbench.data.subject import load_subjects
from dbbench.evaluation.encoder import Encoder, load_encoder
from dbbench.mini import weights
from dbbench.mini.drawing.world import draw, draw_scene, scene_for_prompt
from dbbench.mini.judge import judge_images, load_judge
from dbbench.mini.source import MiniWorld, identities
from dbbench.mini.training.tokenizer import RARE

MIB = 2**20


@pytest.fixture(scope="module")
def mini_dino() -> Encoder:
    return load_encoder("mini-dino", device="cpu")


@pytest.fixture(scope="module")
def mini_clip() -> Encoder:
    return load_encoder("mini-clip", device="cpu")


def test_weights_are_small_and_safe():
    files = [f for f in weights("backbone").parent.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 25 * MIB
    assert not [f.name for f in files if f.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_diffusers_loads_the_backbone_by_itself():
    from diffusers import StableDiffusionPipeline

    import dbbench.mini.autoencoder  # noqa: F401 - diffusers looks the class up in what is imported

    pipeline = StableDiffusionPipeline.from_pretrained(weights("backbone"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a dog in the jungle",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 5


def test_every_identifier_is_one_token_of_the_saved_vocabulary():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(weights("backbone") / "tokenizer")
    for word in RARE:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1


def test_the_saved_tokenizer_is_the_one_that_captions_were_cut_with():
    from transformers import CLIPTokenizer

    from dbbench.mini.training.tokenizer import make_tokenizer

    for folder in (weights("backbone") / "tokenizer", weights("clip")):
        assert CLIPTokenizer.from_pretrained(folder).get_vocab() == make_tokenizer().get_vocab()


def test_recipe_and_curves_lie_beside_the_weights():
    folder = weights("backbone").parent
    recipe = json.loads((folder / "recipe.json").read_text())
    for step in ("autoencoder", "backbone", "dino", "clip", "judge"):
        assert recipe[step]["steps"] > 0
        assert (folder / "curves" / f"{step}.csv").is_file()


def test_mini_dino_knows_a_subject_in_another_picture(mini_dino):
    """Of pictures in the studio the nearest other one is of the same subject, nearly always."""
    rng = np.random.default_rng(0)
    drawn = {
        subject.name: [draw(draw_scene(identities()[subject.name], rng)) for _ in subject.photos]
        for subject in load_subjects()
    }
    assert _nearest_is_right(mini_dino, drawn) >= 0.9


def test_mini_dino_knows_a_subject_in_another_place(mini_dino):
    """The same of the references, each of them elsewhere, mostly; chance is 3%."""
    world = MiniWorld()
    drawn = {
        subject.name: [reference.image for reference in world.images(subject, 64)]
        for subject in load_subjects()
    }
    assert _nearest_is_right(mini_dino, drawn) >= 0.75


def _nearest_is_right(encoder, drawn):
    owner = [name for name, images in drawn.items() for _ in images]
    features = encoder.encode_images([image for images in drawn.values() for image in images])
    likeness = features @ features.T
    np.fill_diagonal(likeness, -1)
    return np.mean([owner[i] == owner[j] for i, j in enumerate(likeness.argmax(1))])


def test_mini_clip_finds_the_caption_of_a_picture(mini_clip):
    """Of a subject's 25 prompts, the one that was drawn has the nearest text, mostly."""
    right = []
    for subject in load_subjects()[::5]:
        prompts = load_prompts(subject.live)
        identity = identities()[subject.name]
        drawn = [
            draw(scene_for_prompt(identity, p, np.random.default_rng(i)))
            for i, p in enumerate(prompts)
        ]
        texts = mini_clip.encode_texts([p.render("", subject.class_noun) for p in prompts])
        best = (mini_clip.encode_images(drawn) @ texts.T).argmax(1)
        right += [p.id == prompts[b].id for p, b in zip(prompts, best, strict=True)]
    assert np.mean(right) >= 0.8


def test_the_judge_is_right_about_the_truth():
    judge = load_judge()
    nouns, prompts_seen = [], []
    for subject in load_subjects():
        prompts = load_prompts(subject.live)
        identity = identities()[subject.name]
        drawn = [
            draw(scene_for_prompt(identity, p, np.random.default_rng(i)))
            for i, p in enumerate(prompts)
        ]
        for prompt, verdict in zip(prompts, judge_images(judge, drawn), strict=True):
            nouns.append(verdict.shows_noun(subject.class_noun))
            prompts_seen.append(verdict.shows_prompt(prompt))
    assert np.mean(nouns) >= 0.97
    assert np.mean(prompts_seen) >= 0.95
