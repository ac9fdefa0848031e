"""Submission: images that dbbench did not make, each with its subject and its prompt; for scoring.

`submissions/` holds the readers: a folder, a manifest, a data set, a finished run. They hand over
rows; here a row becomes a picture, or a line that says why it cannot be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dbbench.data.dataset import Dataset, every_prompt
from dbbench.data.photographs import Photographs
from dbbench.data.prompt import PromptTemplate
from dbbench.data.subject import Subject, SubjectKind
from dbbench.errors import UserError, nearest, unknown
from dbbench.evaluation.metric import CLASS_PROMPT

_CLASS = PromptTemplate(CLASS_PROMPT, "a {class_noun}", "recontextualization")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Row:
    """What a reader found of one image; `where` says where, for a line that refuses it."""

    where: str
    image: Path
    name: str
    """How tables name the image."""
    subject: str
    prompt: str = ""
    """A prompt's id or its text."""
    text: str = ""
    """The prompt as the model got it."""
    method: str = ""
    seed: int | None = None
    class_noun: str = ""
    category: str | None = None


@dataclass(frozen=True)
class Picture:
    """One image to score, with all that is known of it."""

    image: Path
    name: str
    method: str
    subject: str
    class_noun: str
    kind: SubjectKind
    prompt: str
    """The prompt's id."""
    template: str
    """The prompt with {token} and {class_noun} left open, where it has them."""
    given: str
    """The prompt as the model got it, as far as that is known."""
    category: str | None
    seed: int | None

    def text(self, form: Text) -> str:
        """Return the prompt in one of the forms that protocols compare images with."""
        match form:
            case "as-given":
                return self.given
            case "without-identifier":
                return _render(self.template, "", self.class_noun)
            case "without-subject":
                return _render(self.template, "", "")


@dataclass(frozen=True)
class Submission:
    """All images of one call, and what of it could not be used."""

    pictures: tuple[Picture, ...] = ()
    refused: tuple[str, ...] = ()
    """One line for each thing that is not scored: what, and why."""
    banner: str | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)
    """The encoders of the run that it is, where only these mean something."""
    references: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """The references that it was made from, by subject, where it brings them."""
    dataset: Dataset = field(default_factory=Photographs)
    """Whose subjects and prompts these are."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in order of appearance."""
        return tuple(dict.fromkeys(picture.method for picture in self.pictures))

    def join(self, other: Submission) -> Submission:
        """Return both as one. Raises UserError where they are not of one world."""
        worlds = {(part.dataset.name, part.banner) for part in (self, other) if part.pictures}
        if len(worlds) > 1:
            raise UserError(
                "images of two data sets, or of the embedded world and others, are never in one"
                " table; score them one after the other"
            )
        return Submission(
            self.pictures + other.pictures,
            self.refused + other.refused,
            self.banner or other.banner,
            {**self.encoders, **other.encoders},
            {**self.references, **other.references},
            self.dataset if self.pictures else other.dataset,
        )


def accept(
    rows: Iterable[Row],
    *,
    dataset: Dataset,
    method: str,
    identifier: str,
    own_subjects: Iterable[str] = (),
    any_noun: bool = False,
) -> Submission:
    """Turn rows into pictures; refuse by name what has no known subject or prompt, and doubles.

    `method` names what has no name of its own; `identifier` is the rare token in the prompts, "" if
    there is none. `own_subjects` are subjects beside the data set's, which need class nouns too;
    with `any_noun` only where the prompt is an id: for protocols that leave the noun in the text.
    """
    pictures: list[Picture] = []
    refused: dict[str, None] = {}
    seen: dict[tuple[object, ...], str] = {}
    for row in rows:
        try:
            named = replace(row, method=row.method or method)
            picture = _picture(named, identifier, dataset, tuple(own_subjects), any_noun)
        except UserError as error:
            refused[f"{row.where}: {error}"] = None
            continue
        key = (picture.method, picture.subject, picture.seed, picture.prompt, row.image)
        if key in seen:
            refused[f"{row.where}: the same image and prompt as {seen[key]}; counted once"] = None
            continue
        seen[key] = row.where
        pictures.append(picture)
    return Submission(tuple(pictures), tuple(refused), dataset=dataset)


def _picture(
    row: Row, identifier: str, dataset: Dataset, own_subjects: tuple[str, ...], any_noun: bool
) -> Picture:
    subjects = {subject.name: subject for subject in dataset.subjects}
    known = subjects.get(row.subject)
    if known is None and row.subject not in own_subjects:
        raise unknown("subject", row.subject, [*subjects, *own_subjects], "dbbench list subjects")
    class_noun = row.class_noun or (known.class_noun if known else "")
    text, prompt = row.text, row.prompt
    if prompt and not text and not _SLUG.fullmatch(prompt):
        text, prompt = prompt, ""
    if not class_noun and not (any_noun and text):
        raise UserError(
            f'"{row.subject}" is no subject of the data set and has no class noun; '
            "write a manifest with a column class_noun"
        )
    subject = known or Subject(row.subject, class_noun, live=False)
    own, every = {p.id: p for p in dataset.prompts(subject)}, every_prompt(dataset)
    if known and not text and prompt in every.keys() - own.keys():
        guess = nearest(prompt, own)
        advice = f'; did you mean "{guess}"?' if guess else ";"
        raise UserError(
            f'prompt "{prompt}" is not for {subject.kind} subjects{advice} (dbbench list prompts)'
        )
    template = (every | own | {CLASS_PROMPT: _CLASS}).get(prompt)
    if template is None and text:
        alike = [] if prompt else [*own.values(), *every.values()]
        template, identifier = _match_template(text, class_noun, alike, prompt, identifier)
    if template is None:
        raise unknown("prompt", prompt, [*every, CLASS_PROMPT], "dbbench list prompts")
    return Picture(
        image=row.image,
        name=row.name,
        method=row.method,
        subject=row.subject,
        class_noun=class_noun,
        kind=subject.kind,
        prompt=template.id,
        template=template.text,
        given=text or _render(template.text, identifier, class_noun),
        category=row.category or (None if template.id == CLASS_PROMPT else template.category),
        seed=row.seed,
    )


def _match_template(
    text: str, class_noun: str, known: Iterable[PromptTemplate], prompt: str, identifier: str
) -> tuple[PromptTemplate, str]:
    """Return the known prompt that a text is one of, with its identifier; else a new prompt."""
    wanted = " ".join(text.split())
    for template in known:
        pattern = _pattern(template.text, class_noun)
        if found := re.fullmatch(pattern, wanted, re.IGNORECASE):
            return template, found.groupdict().get("token") or ""
    if not prompt and re.fullmatch(rf"an? {re.escape(class_noun)}", wanted, re.IGNORECASE):
        return _CLASS, ""
    new = wanted.replace("{", "{{").replace("}", "}}")
    for word, place in ((identifier, "{token}"), (class_noun, "{class_noun}")):
        if word:
            pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
            new = re.sub(pattern, place.replace("\\", ""), new, count=1)
    name = prompt or re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    return PromptTemplate(name or "text", new, "recontextualization"), identifier


def _pattern(template: str, class_noun: str) -> str:
    """Return the expression that matches a prompt with any identifier of one or two words."""
    escaped = re.escape(template)
    token = r"(?:(?P<token>\S+(?: \S+)?) )??"
    return escaped.replace(r"\{token\}\ ", token).replace(r"\{class_noun\}", re.escape(class_noun))


def _render(template: str, token: str, class_noun: str) -> str:
    return " ".join(template.format(token=token, class_noun=class_noun).split())


Text = Literal["without-identifier", "as-given", "without-subject"]
