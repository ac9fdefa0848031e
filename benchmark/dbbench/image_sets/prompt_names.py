"""Finds the prompt that an id, a text or a folder's name stands for.

A mistyped id never becomes a text, and an own text gets an id that no other text has.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches

from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.evaluation.metric import CLASS_PROMPT

BARE_CLASS = PromptTemplate(CLASS_PROMPT, "a {class_noun}", "recontextualization")
_IDENTIFIER = r"(?:(?P<token>\S+(?: \S+)?) )??"
_PLACEHOLDER = r"<[^<>:\s]+>"
"""A word that an inversion learned, such as <toy>; <lora:x:1> is none."""
_CLOSE = 0.8
"""Similarity from which a text is a mistyped id."""
_LONGEST = 60
"""Characters of a text in its id."""


def id_or_text(value: str, known: Mapping[str, PromptTemplate], class_noun: str) -> tuple[str, str]:
    """Return an id and "", or "" and a text, or the id of a known text and that text.

    Case and separators of an id do not matter: "Jungle", "cobblestone_street". A name without
    blanks is an id, or a known text with its words joined: "a_sks_dog_in_the_snow"; in a script
    without blanks it is a text.
    """
    if (same := same_id(value, known)) in known:
        return same, ""
    if value.isascii() and " " not in value:
        words = re.sub(r"[-_]+", " ", value)
        template, _ = _known_text(words, known.values(), class_noun)
        return (template.id, words) if template else (value, "")
    mistyped = get_close_matches(_slug(value), known, n=1, cutoff=_CLOSE)
    if mistyped and not _has_word(value, class_noun):
        return value, ""
    return "", value


def same_id(value: str, known: Container[str]) -> str:
    """Return the known id that differs in case and separators only; else the value itself."""
    slug = _slug(value) if value.isascii() else ""
    return slug if value not in known and slug in known else value


def match_text(
    text: str,
    class_noun: str,
    *,
    known: Mapping[str, PromptTemplate],
    prompt: str,
    identifier: str,
) -> tuple[PromptTemplate, str]:
    """Return the known prompt that fits a text, and its identifier; or a new prompt.

    A new one has the id `prompt`, or one of its own. A placeholder such as <toy> stands for the
    subject: "a <toy> in the snow" is "a <toy> dog in the snow". Raises UserError if it is unclear
    what a placeholder stands for.
    """
    given = " ".join(text.split())
    wanted, identifier = _spell_out(given, class_noun, identifier)
    if not prompt:
        template, found = _known_text(wanted, known.values(), class_noun)
        if template:
            return template, found
        if re.fullmatch(rf"an? {re.escape(class_noun)}", wanted, re.IGNORECASE):
            return BARE_CLASS, ""
    new = wanted.replace("{", "{{").replace("}", "}}")
    for word, place, count in ((identifier, "{token}", 0), (class_noun, "{class_noun}", 1)):
        if word:
            new = re.sub(_word(word), place, new, count=count)
    return PromptTemplate(prompt or _own_id(given, known), new, "recontextualization"), identifier


def _known_text(
    text: str, templates: Iterable[PromptTemplate], class_noun: str
) -> tuple[PromptTemplate | None, str]:
    for template in templates:
        if template.id == CLASS_PROMPT:
            continue
        # The identifier may be any one or two words, or none.
        pattern = re.escape(template.text).replace(r"\{token\}\ ", _IDENTIFIER)
        pattern = pattern.replace(r"\{class_noun\}", re.escape(class_noun))
        if found := re.fullmatch(pattern, text, re.IGNORECASE):
            return template, found.groupdict().get("token") or ""
    return None, ""


def _spell_out(text: str, class_noun: str, identifier: str) -> tuple[str, str]:
    """Return a text in which the class noun follows the learned word, and that word."""
    placeholders = list(dict.fromkeys(re.findall(_PLACEHOLDER, text)))
    if identifier and _has_word(text, identifier):
        word = identifier
    else:
        beside = [each for each in placeholders if _is_beside(text, each, class_noun)]
        word = next(iter(beside or placeholders), "")
        if len(beside or placeholders) > 1:
            raise UserError(
                f'"{text}" has {len(placeholders)} placeholders; name the subject\'s:'
                f' --identifier "{word}"'
            )
    if not word:
        return text, identifier
    if word in placeholders:
        if not class_noun:
            raise UserError(f'it is unknown what "{word}" stands for; give the class noun')
        missing = not _is_beside(text, word, class_noun)
    else:
        missing = bool(class_noun) and not _has_word(text, class_noun)
    return re.sub(_word(word), f"{word} {class_noun}", text) if missing else text, word


def _is_beside(text: str, word: str, class_noun: str) -> bool:
    noun, learned = _word(class_noun), _word(word)
    return bool(class_noun) and any(
        re.search(rf"{one}\s+{other}", text, re.IGNORECASE)
        for one, other in ((learned, noun), (noun, learned))
    )


def _own_id(text: str, known: Container[str]) -> str:
    """Return a text's id: its words where these are the whole text, else with a hash of it."""
    text = unicodedata.normalize("NFC", text)
    slug = _slug(text)
    if slug.replace("-", " ") == text and slug not in known and len(slug) <= _LONGEST:
        return slug
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{slug[:_LONGEST].strip('-') or 'text'}-{digest[:8]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _has_word(text: str, word: str) -> bool:
    return bool(word) and re.search(_word(word), text, re.IGNORECASE) is not None


def _word(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"
