"""Session: does the tasks of a plan in one process; a task that fails stops no other run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbbench import stages
from dbbench.artifact import write_text
from dbbench.encoder import Distance
from dbbench.errors import UserError
from dbbench.events import EVENTS, EventLog, Log, Meter
from dbbench.features import FeatureStore
from dbbench.identity import versions
from dbbench.models import Models
from dbbench.plan import Plan, Task
from dbbench.progress import Advance, Progress
from dbbench.workspace import Workspace, estimate_bytes, storage_problem


@dataclass(frozen=True)
class Failure:
    """A task that could not be done."""

    task: Task
    reason: str
    log: Path


@dataclass
class Outcome:
    """What a call of `execute` did."""

    done: int = 0
    """Tasks that were done, the score stage included."""
    failures: list[Failure] = field(default_factory=list)


@dataclass
class Session:
    """The work of one call, or of one of its processes."""

    plan: Plan
    models: Models
    workspace: Workspace
    outcome: Outcome
    store: FeatureStore = field(default_factory=FeatureStore)
    together: int = 1
    log: Log | None = None
    """Where events go in place of the output folder's own file."""
    failed: dict[str, Failure] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """Trainings that were done side by side with another: key -> its name."""

    @property
    def events(self) -> Log:
        """What each task cost."""
        return self.log or EventLog(self.plan.out / EVENTS)

    def start(self, tasks: int) -> None:
        """Note with what the tasks are done."""
        self.events.write(stage="start", tasks=tasks, versions=versions(), **_machine(self.models))

    def work(self, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks in turn; one that fails stops those that need it."""
        runs = list(dict.fromkeys(task.run for task in tasks if task.run is not None))
        with _notes(progress):
            for position, task in enumerate(tasks):
                if task.stage == "train":
                    rest = estimate_bytes(self.plan, tasks[position:])
                    self.workspace.refuse_if_full(rest, self.plan.suite)
                number = runs.index(task.run) + 1 if task.run is not None else 0
                progress.begin(task, number, len(runs))
                self._work_on(task, tasks[position + 1 :], progress)

    def _work_on(self, task: Task, later: Sequence[Task], progress: Progress) -> None:
        if (other := self.made.get(task.key)) is not None:
            self.events.write(**_about(task), status="done", together_with=other)
            progress.end(f"side by side with {other}")
            self.outcome.done += 1
            return
        meter = Meter()
        try:
            count, unit = self._do(task, later, progress)
        except Exception as error:
            problem = storage_problem(error, self.plan.out)
            if problem is not None:
                raise problem from error
            if task.stage == "references" and isinstance(error, UserError):
                raise
            failure = self._fail(task, error)
            self.events.write(**_about(task), status="failed", reason=failure.reason)
            progress.note(f"{task.stage} {task.name} failed: {failure.reason}")
            progress.end("failed")
            return
        measured = meter.read(count, unit)
        self.events.write(**_about(task), status="done", **measured)
        progress.end(_summary(measured, unit))
        self.log_of(task).unlink(missing_ok=True)
        self.outcome.done += 1

    def _do(self, task: Task, later: Sequence[Task], progress: Progress) -> tuple[int, str]:
        """Do one task; return how many steps or images it took."""
        for key in task.needs:
            if key in self.failed:
                raise _Blocked(self.failed[key])

        def advance(done: int, total: int, figures: Mapping[str, Any], /) -> None:
            loss = figures.get("loss")
            progress.advance(done, total, "" if loss is None else f"loss {loss:.3f}")

        plan, models = self.plan, self.models
        artifact = task.artifacts[0][1]
        if task.stage == "prior":
            assert task.class_noun is not None
            settings = plan.suite.prior
            count = stages.prior(artifact, task.class_noun, settings, models.backbone, advance)
            return count, "images"
        assert task.subject is not None
        subject, run = plan.subjects[task.subject], task.run
        if task.stage == "references":
            return stages.references(artifact, subject, plan.source), "images"
        if task.stage == "encode":
            return self._encode(task, advance), "images"
        assert run is not None
        row, backbone = plan.variant(run.method), models.backbone
        method = models.method(row.trained_as)
        if task.stage == "train":
            if mates := self._mates(task, later):
                try:
                    return self._train_together([task, *mates], advance), "steps"
                except Exception as error:
                    progress.note(f"not side by side, but one by one: {error}")
            prior = plan.prior(row.noun(subject)) if method.needs_prior else None
            references = plan.references(subject.name)
            count = stages.train(
                artifact, run, subject, method, backbone,
                references=references, prior=prior, row=row, advance=advance,
            )  # fmt: skip
            return count, "steps"
        checkpoint = plan.checkpoint(run)
        count = stages.sample(
            artifact, run, subject, method, backbone,
            checkpoint=checkpoint, settings=plan.suite.sample, jobs=plan.jobs(run), row=row,
            advance=advance,
        )  # fmt: skip
        shared = any(plan.variant(name).at is not None for name in plan.suite.methods)
        if not plan.suite.keep_checkpoints and not shared:
            checkpoint.remove()
        return count, "images"

    def _mates(self, task: Task, later: Sequence[Task]) -> list[Task]:
        """Trainings that can be done side by side with a task: of the same method, not blocked."""
        assert task.run is not None
        method = task.run.method
        learner = self.models.method(method)
        if self.together == 1 or learner.needs_prior or not hasattr(learner, "fit_many"):
            return []
        subjects = {task.subject}
        mates: list[Task] = []
        for other in later:
            if other.stage != "train" or other.run is None or other.run.method != method:
                continue
            blocked = any(key in self.failed for key in other.needs)
            if blocked or other.key in self.made or other.subject in subjects:
                continue
            if len(mates) + 1 < self.together:
                subjects.add(other.subject)
                mates.append(other)
        return mates

    def _train_together(self, tasks: Sequence[Task], advance: Advance) -> int:
        runs = [task.run for task in tasks if task.run is not None]
        count = stages.train_together(
            [task.artifacts[0][1] for task in tasks],
            runs,
            [self.plan.subjects[run.subject] for run in runs],
            self.models.method(runs[0].method),
            self.models.backbone,
            references=[self.plan.references(run.subject) for run in runs],
            row=self.plan.variant(runs[0].method),
            advance=advance,
        )
        self.made |= {task.key: tasks[0].name for task in tasks[1:]}
        return count

    def _encode(self, task: Task, advance: Advance) -> int:
        assert task.subject is not None
        images = self.plan.references(task.subject)
        if task.run is not None:
            images = self.plan.samples(task.run)
        encoders = {role: self.models.encoder(role) for role, _ in task.artifacts}
        # All at once, so that an image is decoded once for all; then each from the store.
        alike = [encoder for encoder in encoders.values() if not isinstance(encoder, Distance)]
        self.store.encode_with(alike, stages.image_files(images), advance=advance)
        count = 0
        for role, artifact in task.artifacts:
            texts = task.run is not None and role in self.plan.text_roles
            count += stages.encode(artifact, images, encoders[role], texts=texts, store=self.store)
        return count

    def _fail(self, task: Task, error: Exception) -> Failure:
        if isinstance(error, _Blocked):
            failure = Failure(task, error.cause.reason, error.cause.log)
        else:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reason = f"{kind}{' '.join(str(error).split())}"
            failure = Failure(task, reason, self.log_of(task))
            write_text(failure.log, "".join(traceback.format_exception(error)))
            self.outcome.failures.append(failure)
        self.failed[task.key] = failure
        return failure

    def log_of(self, task: Task) -> Path:
        """Return where it is written why a task failed."""
        name = task.name.replace("/", "-").replace(" ", "-")
        return self.plan.out / "logs" / f"{name}.{task.stage}.log"


class _Blocked(Exception):
    """A task cannot be done because one before it failed."""

    def __init__(self, cause: Failure) -> None:
        super().__init__(cause.reason)
        self.cause = cause


def _about(task: Task) -> dict[str, Any]:
    run = task.run
    about: dict[str, Any] = {"stage": task.stage, "name": task.name}
    if run is not None:
        about["run"] = {"method": run.method, "subject": run.subject, "seed": run.seed}
    return about


def _summary(measured: Mapping[str, Any], unit: str) -> str:
    if unit not in measured:
        return f"{measured['seconds']:.1f} s"
    rate = f"{measured[f'{unit}_per_second']:.3g} {unit}/s"
    return f"{measured[unit]} {unit} in {measured['seconds']:.1f} s ({rate})"


@contextmanager
def _notes(progress: Progress) -> Iterator[None]:
    """While open, what dbbench's modules log stands above the bars."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.note(record.getMessage())

    log, handler = logging.getLogger("dbbench"), Handler(logging.INFO)
    level, propagates = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagates


def _machine(models: Models) -> dict[str, Any]:
    import platform

    import torch

    gpu = torch.cuda.get_device_name(models.device) if models.device.startswith("cuda") else None
    return {
        "device": models.device,
        **({"gpu": gpu} if gpu else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
