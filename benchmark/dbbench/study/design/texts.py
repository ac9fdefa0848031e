"""The texts that raters read: the paper's instructions, and a consent that fits this program."""

from __future__ import annotations

from pathlib import Path

from dbbench.errors import UserError
from dbbench.study.design.study import StudyQuestion, Texts
from dbbench.text_files import read_text

# Ruiz et al., arXiv 2208.12242, section 4.2 and the supplement's figure of the user study.
_INSTRUCTIONS: dict[StudyQuestion, tuple[str, ...]] = {
    "subject": (
        "Inspect the reference images first: they all show the same item. Then inspect the two"
        " images made by computer programs.",
        "Choose the one that best reproduces the identity of the reference item: what kind of thing"
        " it is, and its details.",
        "The item might wear accessories such as hats or outfits, take another pose or be in"
        " another place. That should not affect your answer: do not take it into account.",
        'If you are not sure, choose "Cannot determine / both equally".',
    ),
    "prompt": (
        "Read the reference text first. Then inspect the two images made by computer programs.",
        "Choose the one that is best described by the reference text.",
        "Only the text counts: not how beautiful an image is, and not which particular item it"
        " shows.",
        'If you are not sure, choose "Cannot determine / both equally".',
    ),
}
_QUESTION: dict[StudyQuestion, str] = {
    "subject": "Which of the two images best reproduces the identity of the reference item?",
    "prompt": "Which of the two images is best described by the reference text?",
}
SECONDS_PER_QUESTION = 12


def default_texts(
    question: StudyQuestion,
    questions: int,
    *,
    consent: Path | None = None,
    completion_code: str | None = None,
) -> Texts:
    """Return the texts of a study with this number of questions per rater.

    `consent` is a text file that replaces the built-in consent; empty lines separate paragraphs.
    """
    return Texts(
        title="Comparing images",
        consent=_default_consent(questions) if consent is None else _read_consent(consent),
        instructions=_INSTRUCTIONS[question],
        question=_QUESTION[question],
        completion_code=completion_code,
    )


def _default_consent(questions: int) -> tuple[str, ...]:
    minutes = max(2, round(questions * SECONDS_PER_QUESTION / 60))
    return (
        f"In this study you compare images made by computer programs. There are {questions}"
        f" questions; they take about {minutes} minutes.",
        "Taking part is voluntary. You may stop at any time by closing the page; what you have"
        " answered by then is kept.",
        "We keep your answers, when and how fast you gave them, and a random number that stands for"
        " you. We keep no name, no account and no address. Your browser stores one cookie, so that"
        " you can close the page and go on later.",
        "By agreeing you confirm that you are at least 18 years old and take part of your own free"
        " will.",
    )


def _read_consent(path: Path) -> tuple[str, ...]:
    text = read_text(path, "the consent text").replace("\r\n", "\n")
    paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())
    if not paragraphs:
        raise UserError(f"the consent text {path} is empty; write at least one paragraph")
    return paragraphs
