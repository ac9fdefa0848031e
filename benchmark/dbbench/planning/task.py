"""Task and image job: the units of work of a plan and of a run."""

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
        """Its path in the folder of samples."""
        return f"{self.prompt.id}/{self.number}.png"


@dataclass(frozen=True)
class Task:
    """One stage to do, for one run, one subject or one class noun."""

    stage: Stage
    name: str
    artifacts: tuple[tuple[str, Artifact], ...]
    """Role and artifact to make: for "encode" one for each encoder role, else one with role ""."""
    run: Run | None = None
    subject: str | None = None
    class_noun: str | None = None
    needs: tuple[str, ...] = ()
    """Keys of the tasks that must be done before."""

    @property
    def key(self) -> str:
        """Its name in `needs` of other tasks, such as "train dreambooth/dog/0"."""
        return f"{self.stage} {self.name}"

    @property
    def complete(self) -> bool:
        """Whether all its artifacts are complete, by `Artifact.state`."""
        return all(artifact.complete for _, artifact in self.artifacts)

    @property
    def verified(self) -> bool:
        """Whether all its artifacts are complete, by `Artifact.verify`."""
        return all(artifact.verify() == "done" for _, artifact in self.artifacts)

    @property
    def kind(self) -> str:
        """Stage and method; tasks of one kind take about the same time."""
        return f"{self.stage} {self.run.method}" if self.run else self.stage
