"""Claims about the prompt lists and the prompt files a user may write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbbench.data.prompt import PromptTemplate, load_prompts, parse_prompts
from dbbench.errors import UserError


def prompt_lists(text: str) -> dict[str, list[str]]:
    """Return the prompt lists of `prompts_and_classes.txt` as {"object": [...], "live": [...]}.

    The templates are turned from `'a {0} {1} ...'` into `'a {token} {class_noun} ...'`.
    """
    objects, live = text.split("Object Prompts", 1)[1].split("Live Subject Prompts", 1)
    return {
        kind: [
            template.replace("{0}", "{token}").replace("{1}", "{class_noun}")
            for template in re.findall(r"'([^']+)'\.format", block)
        ]
        for kind, block in (("object", objects), ("live", live))
    }


@pytest.mark.parametrize(("live", "kind"), [(False, "object"), (True, "live")])
def test_prompts_are_the_data_sets_own_lists(live: bool, kind: str, photographs: Path) -> None:
    lists = prompt_lists((photographs / "prompts_and_classes.txt").read_text("utf-8"))
    assert [prompt.text for prompt in load_prompts(live)] == lists[kind]


def test_each_list_has_25_prompts_in_the_published_categories() -> None:
    def count(live: bool) -> dict[str, int]:
        categories = [prompt.category for prompt in load_prompts(live)]
        return {category: categories.count(category) for category in sorted(set(categories))}

    assert count(live=False) == {"property": 5, "recontextualization": 20}
    assert count(live=True) == {"accessory": 10, "property": 5, "recontextualization": 10}


def test_an_id_means_one_text_in_both_lists() -> None:
    texts: dict[str, set[str]] = {}
    for live in (False, True):
        assert len({prompt.id for prompt in load_prompts(live)}) == 25
        for prompt in load_prompts(live):
            texts.setdefault(prompt.id, set()).add(prompt.text)
    assert len(texts) == 35
    assert {len(found) for found in texts.values()} == {1}
    assert len({text for found in texts.values() for text in found}) == 35


def test_ids_never_change() -> None:
    """The mini world and every stored score table key on these."""
    shared = [
        *("jungle", "snow", "beach", "cobblestone-street", "pink-fabric", "wooden-floor"),
        *("city", "mountain", "blue-house", "purple-rug-forest"),
    ]
    places = [
        *("wheat-field", "autumn-tree", "eiffel-tower", "water", "milk", "sunflowers"),
        *("mirror", "crowded-sidewalk", "dirt-road", "white-rug"),
    ]
    worn = [
        *("red-hat", "santa-hat", "rainbow-scarf", "top-hat-monocle", "chef", "firefighter"),
        *("police", "pink-glasses", "yellow-shirt", "wizard"),
    ]
    changes = ["red", "purple", "shiny", "wet", "cube"]
    assert [prompt.id for prompt in load_prompts(live=False)] == shared + places + changes
    assert [prompt.id for prompt in load_prompts(live=True)] == shared + worn + changes


def test_rendering_fills_in_both_placeholders_and_leaves_no_double_blank() -> None:
    prompt = PromptTemplate("jungle", "a {token} {class_noun} in the jungle", "recontextualization")
    assert prompt.render("sks", "stuffed animal") == "a sks stuffed animal in the jungle"
    assert prompt.render("", "dog") == "a dog in the jungle"
    assert prompt.render("sks", "") == "a sks in the jungle"


GOOD = '[[prompt]]\nid = "sea"\ncategory = "property"\ntext = "a {token} {class_noun} at sea"\n'


def test_a_users_own_prompt_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert parse_prompts(path) == (
        PromptTemplate("sea", "a {token} {class_noun} at sea", "property"),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"has no \[\[prompt\]\] table"),
        ("prompt = 3", r"has no \[\[prompt\]\] table"),
        ("[[prompt]", "is not valid TOML"),
        (GOOD.replace("{token} ", ""), r"has no \{token\}"),
        (GOOD.replace("{class_noun} ", ""), r"has no \{class_noun\}"),
        (GOOD.replace("at sea", "{place}"), 'unknown placeholder "place"'),
        (GOOD.replace("{token}", "{token"), "braces"),
        (GOOD.replace("at sea", "{}"), 'unknown placeholder ""'),
        (GOOD.replace("property", "propperty"), 'did you mean "property"'),
        (GOOD.replace("category", "categroy"), 'did you mean "category"'),
        (GOOD.replace('id = "sea"\n', ""), "id is missing"),
        (GOOD.replace('"sea"', '"At Sea"'), "is not a slug"),
        (GOOD + GOOD, 'the id "sea" is used twice'),
    ],
)
def test_a_bad_prompt_file_gives_one_line_with_its_name(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        parse_prompts(path)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_file_that_is_not_there_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the prompt file"):
        parse_prompts(tmp_path / "none.toml")
