"""The limits' numbers on features made by hand: each moves with its own fault and says no more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dbbench.evaluation.limits import LIMITS, Shown

PROMPTS = ("jungle", "snow", "beach", "city")
BY_NAME = {limit.name: limit for limit in LIMITS}


def shown(
    *,
    meaning: np.ndarray | None = None,
    look: np.ndarray | None = None,
    places: tuple[bool, ...] = (True,) * 4,
    real: np.ndarray | None = None,
) -> Shown:
    """Two images of each prompt, each exactly what its text means, all of one look."""
    texts = np.repeat(np.eye(6)[:4], 2, axis=0).astype(np.float32)
    references = np.array([[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0.6, 0.8]]) if real is None else real
    return Shown(
        look=np.tile(np.eye(5)[0], (8, 1)).astype(np.float32) if look is None else look,
        meaning=texts if meaning is None else meaning.astype(np.float32),
        texts=texts,
        prompts=np.repeat(PROMPTS, 2),
        keeps_look=np.repeat(places, 2),
        real_meaning=references.astype(np.float32),
    )


def of(name: str, images: Shown) -> float:
    return BY_NAME[name].of(images)


def looks(*rows: int) -> np.ndarray:
    return np.eye(5)[list(rows)].astype(np.float32)


def test_images_that_show_their_prompts_and_the_subject_have_no_fault():
    assert [of(limit.name, shown()) for limit in LIMITS] == pytest.approx([0, 0, 0, 0])


def test_an_image_that_fits_every_other_prompt_better_has_context_one():
    wrong = np.ones((8, 6))
    wrong[np.arange(8), np.arange(8) // 2] = 0
    assert of("context", shown(meaning=wrong)) == pytest.approx(1)


def test_an_image_that_has_nothing_to_do_with_any_prompt_is_at_chance():
    assert of("context", shown(meaning=np.tile(np.eye(6)[5], (8, 1)))) == pytest.approx(0.5)


def test_context_does_not_depend_on_the_order_of_images():
    mixed = np.random.default_rng(0).normal(size=(8, 6))
    images, order = shown(meaning=mixed), np.random.default_rng(1).permutation(8)
    again = Shown(
        look=images.look[order],
        meaning=images.meaning[order],
        texts=images.texts[order],
        prompts=images.prompts[order],
        keeps_look=images.keeps_look[order],
        real_meaning=images.real_meaning,
    )
    before, after = (BY_NAME["context"].measure(each) for each in (images, again))
    assert after == pytest.approx(before[order])


def test_a_look_that_changes_with_the_place_is_entangled_and_one_that_is_odd_is_not():
    by_place = shown(look=looks(0, 0, 1, 1, 2, 2, 3, 3))
    by_chance = shown(look=looks(0, 1, 0, 1, 0, 1, 0, 1))
    assert of("entanglement", by_place) > 0.5
    assert of("entanglement", by_chance) <= 0
    assert of("hallucination", by_place) == pytest.approx(0)
    assert of("hallucination", by_chance) == pytest.approx(1)


def test_what_a_prompt_asks_to_change_is_no_entanglement():
    look = looks(0, 0, 0, 0, 0, 0, 3, 3)
    assert of("entanglement", shown(look=look)) > 0
    asked = shown(look=look, places=(True, True, True, False))
    assert of("entanglement", asked) == pytest.approx(0)


def test_a_reference_given_back_is_overfitting_unless_the_prompt_asks_for_its_setting():
    copied = np.tile([0, 0, 0, 0, 1, 0], (8, 1))
    assert of("overfitting", shown(meaning=copied)) == pytest.approx(1 - 0.6)
    same_setting = np.array([[1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]])
    asked = np.eye(6)[np.arange(8) // 2]
    asked[:2, 4] = 0.9
    values = BY_NAME["overfitting"].measure(shown(meaning=asked, real=same_setting))
    assert values[:2] == pytest.approx([0, 0])


def test_images_that_do_not_show_their_prompt_say_nothing_of_hallucination():
    meaning = np.eye(6)[[1, 1, 1, 1, 2, 2, 3, 3]]
    values = BY_NAME["hallucination"].measure(shown(meaning=meaning))
    assert np.isnan(values[:2]).all()
    assert np.isfinite(values[2:]).all()


def test_what_cannot_be_had_is_no_number():
    one = shown(real=np.eye(6)[:1])
    assert math.isnan(of("overfitting", one))
    images = shown()
    single = Shown(
        images.look[:1],
        images.meaning[:1],
        images.texts[:1],
        images.prompts[:1],
        images.keeps_look[:1],
        images.real_meaning,
    )
    found = [of(limit.name, single) for limit in LIMITS if limit.name != "overfitting"]
    assert all(math.isnan(value) for value in found)
