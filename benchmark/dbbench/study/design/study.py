"""Study: what is compared and what raters read; `create` writes it, everything after reads it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dbbench.errors import UserError
from dbbench.files import write_text

Question = Literal["subject", "prompt"]
Side = Literal["left", "right"]
Choice = Literal["left", "right", "undecided"]
QUESTIONS: tuple[Question, ...] = ("subject", "prompt")
CHOICES: tuple[Choice, ...] = ("left", "right", "undecided")

RECORD = "study.json"
IMAGES = "images"
SCORES = "scores.parquet"
SQLITE_FILE = "answers.sqlite"
"""The embedded database, in the study's folder."""
SIMULATED_FILE = "simulated.sqlite"
"""The same of simulated raters."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(_Record):
    """One image of a pair, and where it came from: nothing of it but `image` reaches a rater."""

    image: str
    """Its opaque id."""
    method: str
    run: str
    """Name of the run's folder."""
    seed: int | None
    file: str
    """Below the samples' folder, or below the references' in an attention check."""


class Pair(_Record):
    """Two images of one subject for one prompt; in an attention check the answer is known."""

    id: str
    """Opaque, like an image's."""
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
        """Left and right."""
        return self.left.method, self.right.method


class Reference(_Record):
    """One real image of a subject, and whom to credit for it."""

    image: str
    credit: str


class Texts(_Record):
    """What raters read, in paragraphs."""

    title: str
    consent: tuple[str, ...]
    instructions: tuple[str, ...]
    question: str
    completion_code: str | None = None
    """Shown at the end; None gives each rater a code of their own."""


class Study(_Record):
    """A whole study, as study.json holds it."""

    format: Literal[1] = 1
    id: str
    question: Question
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
    """How long a rater may rest before somebody else gets what they have not answered."""
    texts: Texts
    pairs: tuple[Pair, ...]
    checks: tuple[Pair, ...]
    references: Mapping[str, tuple[Reference, ...]]
    """By subject."""
    images: Mapping[str, str]
    """Opaque id -> file in the folder `images`."""
    side: int
    """Largest side of the generated images in pixels."""

    @cached_property
    def by_id(self) -> dict[str, Pair]:
        """Every pair and attention check."""
        return {pair.id: pair for pair in (*self.pairs, *self.checks)}

    @property
    def raters_needed(self) -> int:
        """The least number of raters who can give every pair its answers."""
        return -(-len(self.pairs) * self.raters_per_pair // self.questions_per_rater)


def load_study(folder: Path) -> Study:
    """Return the study in a folder. Raises UserError where there is none, or an unreadable one."""
    path = folder / RECORD
    try:
        return Study.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no study; make one with: dbbench study create RUN --question subject"
        ) from None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as a study of this version ({reason}); create it anew"
        ) from None


def save_study(study: Study, folder: Path) -> None:
    """Write study.json."""
    write_text(folder / RECORD, study.model_dump_json(indent=1) + "\n")
