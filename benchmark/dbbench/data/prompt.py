"""Prompt templates with stable ids; sampling and scoring read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Formatter
from typing import Any, Literal, get_args

from dbbench.errors import UserError, unknown
from dbbench.text_files import read_toml

Category = Literal[
    "recontextualization", "accessory", "property", "art", "view", "expression", "comics", "class"
]
"""The data set has the first three, applications.toml the others of the paper's section 4.4;
"class" are images of the class noun alone, which show how much the class itself has changed."""
CATEGORIES: tuple[Category, ...] = get_args(Category)

# Neutral contexts of a new word (arXiv 2208.01618, appendix: some of CLIP's templates).
NEUTRAL_TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)

_PLACEHOLDERS = ("token", "class_noun")
_KEYS = ("id", "category", "text")
_CONTENT = "an id, a category and a text"
_FOR = ("live", "object")


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt with placeholders for the identifier and the class noun."""

    id: str
    """A short slug; scores are joined on it, never on the text."""
    text: str
    """Such as "a {token} {class_noun} in the jungle"."""
    category: Category
    kind: str = ""
    """The kind of subject that it is for, "live" or "object"; "" is for both."""

    def render(self, token: str, class_noun: str) -> str:
        """Insert the identifier and the class noun; an empty one leaves no double space."""
        return " ".join(self.text.format(token=token, class_noun=class_noun).split())


@cache
def load_applications(live: bool) -> tuple[PromptTemplate, ...]:
    """Return the prompts of the paper's section 4.4 for live subjects or for objects."""
    kind = "live" if live else "object"
    prompts = parse_prompts(files("dbbench.prompts") / "applications.toml")
    return tuple(prompt for prompt in prompts if prompt.kind in ("", kind))


def class_prompt(text: str, class_noun: str) -> PromptTemplate:
    """Return the prompt of the class noun alone, without an identifier."""
    return PromptTemplate("class-noun", text.format(class_noun=class_noun), "class")


@cache
def load_prompts(live: bool) -> tuple[PromptTemplate, ...]:
    """Return the data set's 25 templates for live subjects or for objects, in its own order."""
    return parse_prompts(files("dbbench.prompts") / ("live.toml" if live else "object.toml"))


def parse_prompts(source: Traversable) -> tuple[PromptTemplate, ...]:
    """Read templates from a TOML file with one [[prompt]] table (id, category, text) each.

    Raises UserError with the file and the prompt if one is not valid.
    """
    document = read_toml(source, "the prompt file")
    tables = document.get("prompt")
    if not isinstance(tables, list) or not tables:
        raise UserError(f"the prompt file {source} has no [[prompt]] table; each needs {_CONTENT}")
    prompts = tuple(_template(table, f"{source}, prompt {i}") for i, table in enumerate(tables, 1))
    ids = [prompt.id for prompt in prompts]
    if repeated := sorted({prompt_id for prompt_id in ids if ids.count(prompt_id) > 1}):
        raise UserError(f'{source}: the id "{repeated[0]}" is used twice; give each prompt its own')
    return prompts


def _template(table: Mapping[str, Any], where: str) -> PromptTemplate:
    for key in table:
        if key not in (*_KEYS, "for"):
            raise UserError(f"{where}: {unknown('key', key, (*_KEYS, 'for'), '')}")
    if absent := [key for key in _KEYS if not isinstance(table.get(key), str)]:
        raise UserError(f"{where}: {absent[0]} is missing or not text; a prompt needs {_CONTENT}")
    prompt_id, category, text = (str(table[key]) for key in _KEYS)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", prompt_id):
        raise UserError(f'{where}: the id "{prompt_id}" is not a slug; write it like "red-hat"')
    if category not in CATEGORIES:
        raise UserError(f"{where}: {unknown('category', category, CATEGORIES, '')}")
    _check_placeholders(text, where)
    kind = str(table.get("for", ""))
    if kind and kind not in _FOR:
        raise UserError(f"{where}: {unknown('kind', kind, _FOR, '')}")
    return PromptTemplate(id=prompt_id, text=text, category=category, kind=kind)


def _check_placeholders(text: str, where: str) -> None:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise UserError(f'{where}: the braces of "{text}" do not match: {error}') from error
    for name in _PLACEHOLDERS:
        if name not in fields:
            raise UserError(
                f'{where}: "{text}" has no {{{name}}};'
                ' write it like "a {token} {class_noun} in the jungle"'
            )
    for name in fields:
        if name not in _PLACEHOLDERS:
            raise UserError(f"{where}: {unknown('placeholder', name, _PLACEHOLDERS, '')}")
