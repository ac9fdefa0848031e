"""Images to score that dbbench did not generate, each with its subject and its prompt.

The readers beside this module (folder, manifest, data set, finished run) return rows. This module
turns each row into a picture, or refuses it with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dbbench.data.dataset import Dataset, every_prompt
from dbbench.data.photographs import Photographs
from dbbench.data.subject import Subject, SubjectKind
from dbbench.errors import UserError, nearest, unknown
from dbbench.evaluation.metric import CLASS_PROMPT
from dbbench.image_sets.prompt_names import BARE_CLASS, id_or_text, match_text, same_id

PromptForm = Literal["without-identifier", "as-given", "without-subject"]


@dataclass(frozen=True)
class ImageRow:
    """The data of one image from a reader."""

    where: str
    """The place in the source, for the message if the row is refused."""
    image: Path
    name: str
    """The name of the image in tables."""
    subject: str
    prompt: str = ""
    """The id of a prompt, or its text."""
    text: str = ""
    """The prompt as it was given to the model."""
    method: str = ""
    seed: int | None = None
    class_noun: str = ""
    category: str | None = None


@dataclass(frozen=True)
class Picture:
    """One image to score, with its subject, prompt and method."""

    image: Path
    name: str
    method: str
    subject: str
    class_noun: str
    kind: SubjectKind
    prompt: str
    """The prompt's id."""
    template: str
    """The prompt with the placeholders {token} and {class_noun}, if it has them."""
    given: str
    """The prompt as it was given to the model, if that is known."""
    category: str | None
    seed: int | None

    def text(self, form: PromptForm) -> str:
        """Return the prompt in one of the forms that protocols use."""
        match form:
            case "as-given":
                return self.given
            case "without-identifier":
                return _render(self.template, "", self.class_noun)
            case "without-subject":
                return _render(self.template, "", "")


@dataclass(frozen=True)
class Submission:
    """All images of one call, and the reasons for images that are not scored."""

    pictures: tuple[Picture, ...] = ()
    refused: tuple[str, ...] = ()
    """One line for each image or folder that is not scored, with the reason."""
    banner: str | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)
    """Role -> encoder; only in a run of the embedded world, which has its own encoders."""
    references: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """A finished run's own references, by subject."""
    dataset: Dataset = field(default_factory=Photographs)
    """The data set of the subjects and prompts."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods in order of appearance."""
        return tuple(dict.fromkeys(picture.method for picture in self.pictures))

    def join(self, other: Submission) -> Submission:
        """Return both as one. Raises UserError if their data sets or banners differ."""
        origins = {(part.dataset.name, part.banner) for part in (self, other) if part.pictures}
        if len(origins) > 1:
            raise UserError(
                "images of different data sets, or of the embedded world and of photographs, cannot"
                " be in one table; score them separately"
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
    rows: Iterable[ImageRow],
    *,
    dataset: Dataset,
    method: str,
    identifier: str,
    own_subjects: Iterable[str] = (),
    any_noun: bool = False,
) -> Submission:
    """Turn rows into pictures; refuse duplicates and rows with an unknown subject or prompt.

    `method` is for rows without a method; `identifier` is the rare token in the prompts, "" if
    there is none. `own_subjects` are the user's subjects, which need a class noun; with `any_noun`
    they need it only if the prompt is an id, because a text already contains the noun.
    """
    pictures: list[Picture] = []
    refused: dict[str, None] = {}
    seen: dict[tuple[object, ...], str] = {}
    texts: dict[tuple[str, str, str], str] = {}
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
        first = texts.setdefault(
            (picture.method, picture.subject, picture.prompt), picture.template
        )
        if first != picture.template:
            refused[
                f'{row.where}: prompt "{picture.prompt}" has two texts, "{first}" and'
                f' "{picture.template}"; give each text its own id'
            ] = None
            continue
        seen[key] = row.where
        pictures.append(picture)
    return Submission(tuple(pictures), tuple(refused), dataset=dataset)


def _picture(
    row: ImageRow, identifier: str, dataset: Dataset, own_subjects: tuple[str, ...], any_noun: bool
) -> Picture:
    subjects = {subject.name: subject for subject in dataset.subjects}
    known = subjects.get(row.subject)
    if known is None and row.subject not in own_subjects:
        raise unknown("subject", row.subject, [*subjects, *own_subjects], "dbbench list subjects")
    class_noun = row.class_noun or (known.class_noun if known else "")
    subject = known or Subject(row.subject, class_noun, live=False)
    own, every = {p.id: p for p in dataset.prompts(subject)}, every_prompt(dataset)
    prompts = {**own, **every, **own, CLASS_PROMPT: BARE_CLASS}  # A subject's own come first.
    text, prompt = row.text, same_id(row.prompt, prompts)
    if prompt and not text:
        prompt, text = id_or_text(prompt, prompts, class_noun)
    if not class_noun and not (any_noun and text):
        raise UserError(
            f'"{row.subject}" is not a subject of the data set and has no class noun; '
            "add a column class_noun to the manifest"
        )
    if known and not text and prompt in every.keys() - own.keys():
        guess = nearest(prompt, own)
        advice = f'; did you mean "{guess}"?' if guess else ";"
        raise UserError(
            f'prompt "{prompt}" is not for {subject.kind} subjects{advice} (dbbench list prompts)'
        )
    template = prompts.get(prompt)
    if template is None and text:
        template, identifier = match_text(
            text, class_noun, known=prompts, prompt=prompt, identifier=identifier
        )
    if template is None:
        raise unknown("prompt", prompt, prompts, "dbbench list prompts")
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


def _render(template: str, token: str, class_noun: str) -> str:
    return " ".join(template.format(token=token, class_noun=class_noun).split())
