"""The embedded world draws what the prompts say, and its truth is its own."""

from __future__ import annotations

import numpy as np
import pytest

from dbbench.data.prompt import load_prompts
from dbbench.data.subject import load_subjects
from dbbench.mini.drawing.places import FRONTS
from dbbench.mini.drawing.world import SIZE, draw, draw_scene, scene_for_prompt
from dbbench.mini.judge import HEADS, answers
from dbbench.mini.source import MiniWorld, identities, reference_scenes
from dbbench.mini.training.dataset import captions, scene
from dbbench.mini.training.tokenizer import RARE, make_tokenizer, words

SUBJECTS = load_subjects()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_every_subject_has_as_many_images_as_photographs():
    world = MiniWorld()
    for subject in SUBJECTS:
        images = world.images(subject, 64)
        assert len(images) == len(subject.photos)
        assert all(image.image.size == (SIZE, SIZE) for image in images)


def test_truth_is_kept_with_each_image():
    dog = next(s for s in SUBJECTS if s.name == "dog")
    for image in MiniWorld().images(dog, 64):
        assert image.truth is not None
        assert image.truth["identity"]["noun"] == "dog"
        assert image.truth["identity"]["main"] == "brown"


def test_references_show_the_same_thing_in_different_places():
    for subject in SUBJECTS:
        scenes = reference_scenes(subject)
        assert {scene.identity for scene in scenes} == {identities()[subject.name]}
        assert len({scene.place for scene in scenes}) == len(scenes)
        assert not any(scene.outfit or scene.change or scene.place in FRONTS for scene in scenes)


def test_every_prompt_changes_the_picture():
    """A prompt's scene differs from the same identity in a studio by far more than a new pose."""
    for subject in SUBJECTS:
        identity = identities()[subject.name]
        plain = _pixels(draw_scene(identity, np.random.default_rng(0)))
        for prompt in load_prompts(subject.live):
            if prompt.id == identity.main:
                continue  # the red cartoon, asked for in red
            shown = scene_for_prompt(identity, prompt, np.random.default_rng(0))
            assert np.abs(_pixels(shown) - plain).mean() > 1.0, (subject.name, prompt.id)


def test_prompts_of_one_list_all_look_different():
    identity = identities()["vase"]
    pictures = [
        _pixels(scene_for_prompt(identity, prompt, np.random.default_rng(1)))
        for prompt in load_prompts(False)
    ]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert np.abs(a - b).mean() > 2.0


def test_identities_differ_within_a_class():
    for noun in {s.class_noun for s in SUBJECTS}:
        keys = [identities()[s.name].key for s in SUBJECTS if s.class_noun == noun]
        assert len(set(keys)) == len(keys)


def test_training_identities_are_disjoint_from_the_thirty():
    held_out = {identity.key for identity in identities().values()}
    seen = {scene(i).identity.key for i in range(5000)}
    assert len(seen) > 2000
    assert not seen & held_out


def test_a_scene_is_a_function_of_its_index():
    assert scene(7) == scene(7)
    assert captions(7, 3) == captions(7, 3)
    assert np.array_equal(_pixels(scene(7)), _pixels(scene(7)))
    assert scene(7) != scene(8)


def test_the_judge_is_asked_for_the_truth():
    for i in range(200):
        truth = scene(i)
        right = dict(zip(HEADS, answers(truth), strict=True))
        assert HEADS["noun"][right["noun"]] == truth.identity.noun
        assert HEADS["place"][right["place"]] == (truth.place or "studio")


def test_every_word_and_identifier_is_one_token(tokenizer):
    for word in [*words(), *RARE]:
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word


def test_captions_never_hold_an_identifier():
    rare = set(RARE)
    for i in range(2000):
        for text in captions(i, 2):
            assert not rare & set(text.split()), text


def test_every_prompt_fits_the_tokenizer(tokenizer):
    for subject in SUBJECTS:
        for prompt in load_prompts(subject.live):
            ids = tokenizer(prompt.render("sks", subject.class_noun)).input_ids
            assert len(ids) <= tokenizer.model_max_length, prompt.id


def _pixels(shown) -> np.ndarray:
    return np.asarray(draw(shown), dtype=np.float32)
