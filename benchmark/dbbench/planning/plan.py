"""Plan: the artifacts of every stage, their inputs, and the tasks that are still to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dbbench.data.dataset import Dataset
from dbbench.data.prompt import class_prompt
from dbbench.data.subject import Subject
from dbbench.evaluation.metric import load_metric
from dbbench.planning.identity import Identities
from dbbench.planning.task import STAGES, ImageJob, Stage, Task
from dbbench.plugins import provenance
from dbbench.seeds import image_seed
from dbbench.storage.artifact import Artifact
from dbbench.storage.remote import Remote, RemoteArtifact
from dbbench.storage.run_folder import (
    checkpoint_folder,
    features_folder,
    prior_folder,
    real_features_folder,
    references_folder,
    samples_folder,
)
from dbbench.suites.rows import SuiteRow
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite


def describe_kept(row: str, reason: str) -> str:
    """Return the line on a row of an earlier call whose method cannot be found any more."""
    return f"kept: {row} of an earlier call does not run and is in no table, but stays: {reason}"


# Increase a stage's number if the same inputs give other outputs: later stages are then redone.
VERSIONS: dict[Stage, int] = dict.fromkeys(STAGES, 1)


@dataclass(frozen=True)
class Plan:
    """All artifacts of one output folder, as its suite and the fingerprints define them."""

    suite: Suite
    out: Path
    dataset: Dataset
    identities: Identities
    remote: Remote | None = None
    """Where the artifacts are stored, if not in `out`."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Rows of earlier calls whose method cannot be found any more, and why: they do not run."""
    _made: dict[str, Artifact] = field(default_factory=dict, repr=False)

    @cached_property
    def subjects(self) -> Mapping[str, Subject]:
        """The data set's subjects by name."""
        return {subject.name: subject for subject in self.dataset.subjects}

    def row(self, run: Run) -> SuiteRow:
        """Return the suite's row of a run."""
        return self.suite.row(run.method)

    def class_noun(self, run: Run) -> str:
        """Return the class noun of a run's prompts, as its row defines it."""
        return self.row(run).noun(self.subjects[run.subject])

    def references(self, subject: str) -> Artifact:
        """Return a subject's images at the backbone's resolution."""
        path, resolution = references_folder(subject), self.suite.backbone.resolution
        if path not in self._made:
            self._made[path] = self._artifact(
                path,
                "references",
                source=self.dataset.name,
                images=self.dataset.fingerprint(self.subjects[subject], resolution),
                resolution=resolution,
            )
        return self._made[path]

    def prior(self, class_noun: str) -> Artifact:
        """Return the class images of a class noun, sampled from the backbone."""
        settings = self.suite.prior
        return self._artifact(
            prior_folder(class_noun),
            "prior",
            backbone=self.backbone,
            prompt=settings.prompt.format(class_noun=class_noun),
            class_noun=class_noun,
            count=settings.count,
            sampler=settings.sampler.model_dump(exclude={"batch_size", "images_per_prompt"}),
        )

    def prior_of(self, run: Run) -> Artifact | None:
        """Return the class images of a run's training; None if its method is known to need none."""
        facts = self.identities.methods.get(self.training(run).method)
        return self.prior(self.class_noun(run)) if facts is None or facts.needs_prior else None

    def checkpoint(self, run: Run) -> Artifact:
        """Return the checkpoint of a run's training."""
        run = self.training(run)
        row, facts = self.row(run), self.identities.methods.get(run.method)
        prior = self.prior_of(run)
        given = {} if facts is None else self.identities.given.content(facts.settings, run.subject)
        return self._artifact(
            checkpoint_folder(run),
            "train",
            method=row.plugin,
            code=provenance("methods", row.plugin),
            settings=None if facts is None else dict(facts.settings),
            backbone=self.backbone,
            class_noun=self.class_noun(run),
            references=self.references(run.subject).fingerprint,
            prior=None if prior is None else prior.fingerprint,
            subject=run.subject,
            seed=run.seed,
            **({"conditions": conditions} if (conditions := row.conditions) else {}),
            **({"given": given} if given else {}),
        )

    def training(self, run: Run) -> Run:
        """Return the run whose training this one uses: itself, or that of its row's base."""
        return replace(run, method=self.row(run).training.name)

    def samples(self, run: Run) -> Artifact:
        """Return the images of a run, one folder for each prompt."""
        at = self.row(run).at
        return self._artifact(
            samples_folder(run),
            "sample",
            checkpoint=self.checkpoint(run).fingerprint,
            sampler=self.suite.sample.model_dump(exclude={"batch_size", "images_per_prompt"}),
            images=[[job.file, job.prompt.text, job.seed] for job in self.jobs(run)],
            **({} if at is None else {"at": at}),
        )

    def features(self, run: Run, role: str) -> Artifact:
        """Return one encoder's vectors of a run's images, and of the prompts a metric needs."""
        return self._artifact(
            features_folder(run, role),
            "encode",
            samples=self.samples(run).fingerprint,
            encoder=self.encoder(role),
            texts=role in self.text_roles,
        )

    def real_features(self, subject: str, role: str) -> Artifact:
        """Return one encoder's vectors of a subject's references."""
        return self._artifact(
            real_features_folder(subject, role),
            "encode",
            references=self.references(subject).fingerprint,
            encoder=self.encoder(role),
        )

    def scores(self, runs: Iterable[Run]) -> dict[str, Any]:
        """Return the inputs of the score table and of all that is made from it."""
        return {
            "stage": "score",
            "version": VERSIONS["score"],
            "suite": [self.suite.name, self.suite.full_banner],
            "metrics": [provenance("metrics", name) for name in self.suite.metrics],
            "runs": {
                str(run): [self.features(run, role).fingerprint for role in self.roles]
                for run in runs
            },
        }

    @property
    def backbone(self) -> str:
        """The backbone's fingerprint, or if unknown, a placeholder that matches no artifact."""
        return self.identities.backbone or "not known yet"

    def encoder(self, role: str) -> str:
        """Return the fingerprint of the encoder for a role, or the same placeholder."""
        return self.identities.encoders.get(role) or "not known yet"

    @property
    def roles(self) -> tuple[str, ...]:
        """The encoder roles that the suite's metrics use, such as "dino" and "clip"."""
        return tuple(dict.fromkeys(load_metric(name).role for name in self.suite.metrics))

    @property
    def text_roles(self) -> frozenset[str]:
        """The roles whose encoders also encode prompts."""
        metrics = map(load_metric, self.suite.metrics)
        return frozenset(metric.role for metric in metrics if metric.compares == "text")

    def jobs(self, run: Run) -> tuple[ImageJob, ...]:
        """Return the images to sample for a run: those of the prompts, then of the class noun."""
        subject, drift = self.subjects[run.subject], self.suite.drift
        asked = [
            (prompt, number)
            for prompt in self.suite.prompts.of(self.dataset, subject)
            for number in range(self.suite.sample.images_per_prompt)
        ]
        bare = class_prompt(drift.prompt, subject.class_noun)
        asked += [(bare, number) for number in range(drift.count)]
        return tuple(
            ImageJob(prompt, number, image_seed(run.seed, run.subject, prompt.id, number))
            for prompt, number in asked
        )

    def tasks(self, runs: Iterable[Run]) -> tuple[Task, ...]:
        """Return the tasks to do for these runs, each task after those it needs.

        The inputs of a task are verified by their hashes. Missing checkpoints and class images are
        made again only if another task needs them.
        """
        runs = tuple(runs)
        todo: dict[str, Task] = {}
        for subject in dict.fromkeys(run.subject for run in runs):
            artifact = self.references(subject)
            if artifact.verify() != "done":
                task = Task("references", subject, (("", artifact),), subject=subject)
                todo[task.key] = task
        for subject in dict.fromkeys(run.subject for run in runs):
            made = [(role, self.real_features(subject, role)) for role in self.roles]
            if missing := tuple((role, item) for role, item in made if not item.complete):
                needs = (f"references {subject}",)
                task = Task("encode", subject, missing, subject=subject, needs=needs)
                todo[task.key] = task
        for run in runs:
            for task in self._run_tasks(run):
                todo.setdefault(task.key, task)
        return tuple(todo.values())

    def _run_tasks(self, run: Run) -> Iterable[Task]:
        training, prior = self.training(run), self.prior_of(run)
        checkpoint, samples = self.checkpoint(run), self.samples(run)
        made = [(role, self.features(run, role)) for role in self.roles]
        encode = tuple((role, item) for role, item in made if not item.complete)
        sample = (samples.verify() if encode else samples.state) != "done"
        train = (checkpoint.verify() if sample else checkpoint.state) == "damaged"
        train = train or (sample and not checkpoint.complete)
        needs: tuple[str, ...] = (f"references {run.subject}",)
        if prior is not None:
            class_noun = self.class_noun(run)
            state = prior.verify() if train else prior.state
            if state == "damaged" or (train and state != "done"):
                yield Task("prior", class_noun, (("", prior),), class_noun=class_noun)
            if train:
                needs += (f"prior {class_noun}",)
        name = str(run)
        if train:
            trained = (("", checkpoint),)
            yield Task("train", str(training), trained, training, run.subject, needs=needs)
        if sample:
            needs = (f"train {training}",)
            yield Task("sample", name, (("", samples),), run, run.subject, needs=needs)
        if encode:
            needs = (f"sample {name}",)
            yield Task("encode", name, encode, run, run.subject, needs=needs)

    def _artifact(self, path: str, stage: Stage, **inputs: Any) -> Artifact:
        everything = {"stage": stage, "version": VERSIONS[stage]} | inputs
        if self.remote is None:
            return Artifact(self.out / path, everything)
        return RemoteArtifact(self.out / path, everything, self.remote, path)
