"""Study: pairs, texts and settings in study.json; `create` writes it, all later steps read it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dbbench.errors import UserError
from dbbench.files import write_text

StudyQuestion = Literal["subject", "prompt"]
Side = Literal["left", "right"]
Choice = Literal["left", "right", "undecided"]
STUDY_QUESTIONS: tuple[StudyQuestion, ...] = ("subject", "prompt")
CHOICES: tuple[Choice, ...] = ("left", "right", "undecided")

STUDY_FILE = "study.json"
IMAGES = "images"
SCORES_FILE = "scores.parquet"
SQLITE_FILE = "answers.sqlite"
"""The SQLite database in the study's folder."""
SIMULATED_FILE = "simulated.sqlite"
"""The SQLite database of simulated raters."""


class _StudyModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_StudyModel):
    """One image of a pair and its origin; only `image` is sent to a rater."""

    image: str
    """Its opaque id."""
    method: str
    run: str
    """Name of the run's folder."""
    seed: int | None
    file: str
    """Path in the samples' folder; in an attention check, in the references' folder."""


class Pair(_StudyModel):
    """Two images of one subject for one prompt; only attention checks have an `answer`."""

    id: str
    """Opaque, like an image's id."""
    subject: str
    class_noun: str
    prompt: str
    text: str
    """The prompt as raters read it, without the identifier."""
    left: Candidate
    right: Candidate
    answer: Side | None = None

    @property
    def methods(self) -> tuple[str, str]:
        """The methods of the left and the right image."""
        return self.left.method, self.right.method


class CreditedImage(_StudyModel):
    """A reference image of a subject, by its opaque id, and its credit."""

    image: str
    credit: str


class Texts(_StudyModel):
    """The texts that raters read; each string of a tuple is a paragraph."""

    title: str
    consent: tuple[str, ...]
    instructions: tuple[str, ...]
    question: str
    completion_code: str | None = None
    """Shown at the end; with None, each rater gets their own code."""


class Study(_StudyModel):
    """A whole study, as study.json holds it."""

    format: Literal[1] = 1
    id: str
    question: StudyQuestion
    banner: str | None
    runs: tuple[str, ...]
    methods: tuple[str, ...]
    seed: int
    raters_per_pair: int
    questions_per_rater: int
    checks_per_rater: int
    quota: int
    """How many raters the open link admits."""
    lease_minutes: int
    """Minutes without an answer after which a rater's open questions go to other raters."""
    texts: Texts
    pairs: tuple[Pair, ...]
    checks: tuple[Pair, ...]
    references: Mapping[str, tuple[CreditedImage, ...]]
    """By subject."""
    images: Mapping[str, str]
    """Opaque id -> file in the folder `images`."""
    side: int
    """Largest side of the generated images in pixels."""

    @cached_property
    def by_id(self) -> dict[str, Pair]:
        """All pairs and attention checks by their ids."""
        return {pair.id: pair for pair in (*self.pairs, *self.checks)}

    @property
    def raters_needed(self) -> int:
        """The smallest number of raters that can answer all pairs."""
        return -(-len(self.pairs) * self.raters_per_pair // self.questions_per_rater)


def load_study(folder: Path) -> Study:
    """Return the study in a folder. Raises UserError if there is none, or it is not readable."""
    path = folder / STUDY_FILE
    try:
        return Study.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no study; make one with: dbbench study create RUN --question subject"
        ) from None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a study of this version ({reason}); create a new study"
        ) from None


def save_study(study: Study, folder: Path) -> None:
    """Write the study to study.json in `folder`."""
    write_text(folder / STUDY_FILE, study.model_dump_json(indent=1) + "\n")
