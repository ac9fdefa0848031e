"""Task: one stage that is to be done for one run, one subject or one class noun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dbbench.data.prompt import PromptTemplate
from dbbench.storage.artifact import Artifact
from dbbench.suites.runs import Run

Stage = Literal["references", "prior", "train", "sample", "encode", "score"]


STAGES: tuple[Stage, ...] = ("references", "prior", "train", "sample", "encode", "score")


@dataclass(frozen=True)
class ImageJob:
    """One image to sample for a run."""

    prompt: PromptTemplate
    number: int
    seed: int

    @property
    def file(self) -> str:
        """Its name inside the samples' folder."""
        return f"{self.prompt.id}/{self.number}.png"


@dataclass(frozen=True)
class Task:
    """One stage that is to do, for one run, one subject or one class noun."""

    stage: Stage
    name: str
    artifacts: tuple[tuple[str, Artifact], ...]
    """What it makes; in the stage "encode" one artifact for each encoder's role, else one."""
    run: Run | None = None
    subject: str | None = None
    class_noun: str | None = None
    needs: tuple[str, ...] = ()
    """Keys of tasks without which this one cannot be done."""

    @property
    def key(self) -> str:
        """What other tasks call it in `needs`."""
        return f"{self.stage} {self.name}"

    @property
    def kind(self) -> str:
        """Tasks of a kind take about as long as each other."""
        return f"{self.stage} {self.run.method}" if self.run else self.stage
