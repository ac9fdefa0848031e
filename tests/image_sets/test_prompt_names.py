"""An id in another spelling is the id, a mistyped one is unknown, and own texts share no id."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbench.data.photographs import Photographs
from dbbench.image_sets.image_set import ImageRow, Picture, Submission, accept

PHOTOS = Photographs()
SNOW = "a dog in the snow"


def read(*prompts: str, identifier: str = "", subject: str = "dog", **more: str) -> Submission:
    rows = [
        ImageRow(f"row {n}", Path(f"{n}.png"), f"{n}.png", subject, prompt, **more)  # type: ignore[arg-type]
        for n, prompt in enumerate(prompts)
    ]
    return accept(rows, dataset=PHOTOS, method="m", identifier=identifier)


def one(prompt: str, **options: str) -> Picture:
    found = read(prompt, **options)
    assert not found.refused
    return found.pictures[0]


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("Jungle", "jungle"),
        ("JUNGLE", "jungle"),
        ("cobblestone_street", "cobblestone-street"),
        ("Cobblestone Street", "cobblestone-street"),
        ("a_sks_dog_in_the_snow", "snow"),
        ("a-sks-dog-in-the-snow", "snow"),
        ("a_dog_in_the_snow", "snow"),
        ("a_<toy>_dog_in_the_snow", "snow"),
        ("A_sks_dog_wearing_a_red_hat", "red-hat"),
        ("Class_Noun", "class-noun"),
    ],
)
def test_another_spelling_of_a_prompt_is_that_prompt(name: str, prompt: str) -> None:
    picture, plain = one(name), one(prompt)
    assert picture.prompt == prompt
    assert picture.text("without-identifier") == plain.text("without-identifier")


def test_a_noun_of_two_words_is_found_in_a_folder_name() -> None:
    assert one("a_sks_stuffed_animal_in_the_snow", subject="bear_plushie").prompt == "snow"


@pytest.mark.parametrize(
    "name", ["Jungel", "cobblestone_stret", "a_sks_dog_on_the_moon", "jungle2"]
)
def test_a_mistyped_id_never_becomes_a_text(name: str) -> None:
    found = read(name)
    assert not found.pictures
    assert f'unknown prompt "{name}"' in found.refused[0]


def test_a_mistyped_id_of_two_words_is_named_with_the_right_one() -> None:
    assert 'did you mean "cobblestone-street"' in read("cobblestone stret").refused[0]


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("a <toy> in the snow", "<toy>"),
        ("a <toy> in the snow", ""),
        ("a <toy> in the snow", "sks"),
        ("a <toy> dog in the snow", ""),
        ("a learned in the snow", "learned"),
    ],
)
def test_the_word_of_an_inversion_is_the_subject(text: str, identifier: str) -> None:
    picture = one(text, identifier=identifier)
    assert picture.prompt == "snow"
    assert picture.text("without-identifier") == SNOW
    assert picture.text("as-given") == text


def test_the_word_of_an_inversion_is_the_subject_in_other_texts() -> None:
    assert one("two <toy> on the moon").text("without-identifier") == "two dog on the moon"
    assert one("a red <toy>").prompt == "red"
    toy = one("a <toy> on the moon", subject="duck_toy")
    assert toy.text("without-identifier") == "a toy on the moon"
    beside = one("a <toy> near another dog")
    assert beside.text("without-identifier") == "a dog near another dog"


def test_of_two_placeholders_the_subject_is_named() -> None:
    text = "a <toy> in the style of <monet>"
    assert 'name the subject\'s: --identifier "<toy>"' in read(text).refused[0]
    assert one(text, identifier="<toy>").text("without-identifier").startswith("a dog in the style")
    assert one("a <toy> dog as a <monet>").text("without-identifier") == "a dog as a <monet>"


def test_no_two_texts_share_an_id() -> None:
    texts = ["丛林里的一只狗", "雪地里的一只狗", "собака в лесу", "собака в снегу"]
    texts += [
        "a dog: red!",
        "a dog, red",
        "a dog red",
        "A dog red",
        "red dog-house",
        "red dog house",
    ]
    texts += [f"a dog {'very ' * 20}small", f"a dog {'very ' * 20}big", "¿?", "¡!"]
    ids = [one(text).prompt for text in texts]
    assert len(set(ids)) == len(texts)
    assert not set(ids) & {prompt.id for prompt in PHOTOS.prompts(PHOTOS.subjects[0])}
    assert one("a dog red").prompt == "a-dog-red"
    assert one("caf\u00e9 dog").prompt == one("cafe\u0301 dog").prompt
    assert one("", text="red hat").prompt.startswith("red-hat-")


def test_an_own_id_has_one_text() -> None:
    rows = [
        ImageRow(f"row {n}", Path(f"{n}.png"), f"{n}.png", "dog", "p1", text=text)
        for n, text in enumerate(["a dog on the moon", "a dog on Mars", "a dog on the moon"])
    ]
    found = accept(rows, dataset=PHOTOS, method="m", identifier="")
    assert [picture.name for picture in found.pictures] == ["0.png", "2.png"]
    assert 'prompt "p1" has two texts' in found.refused[0]
