"""Executor: does what a plan leaves to do, in this process; a failed run stops no other."""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from dbbench import stages
from dbbench.artifact import write_text
from dbbench.encoder import Distance
from dbbench.errors import UserError
from dbbench.events import EVENTS, EventLog, Meter
from dbbench.features import FeatureStore
from dbbench.identity import Identities, versions
from dbbench.models import Models
from dbbench.plan import Plan, Task
from dbbench.plugin import add_method_file, find, load_metric
from dbbench.progress import Advance, Progress, show
from dbbench.scoring import finished_runs, score, scored
from dbbench.subject import ImageSource, load_subjects
from dbbench.suite import Run, Suite
from dbbench.variant import variant
from dbbench.workspace import Workspace, estimate_bytes, storage_errors, storage_problem


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


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM or SIGHUP."""


def make_plan(
    suite: Suite, out: Path, source: ImageSource, runs: Sequence[Run], device: str
) -> Plan:
    """Return the plan with all that earlier calls in `out` found out; loads no network."""
    for reference in suite.method_files.values():
        add_method_file(reference)
    _check_names(suite, runs)
    workspace = Workspace(out)
    workspace.refuse_other(suite)
    identities = Identities(suite, device)
    workspace.recall(identities, workspace.selection().join(runs).methods)
    subjects = {subject.name: subject for subject in load_subjects()}
    return Plan(suite, out, subjects, source, identities)


def execute(
    suite: Suite,
    out: Path,
    source: ImageSource,
    runs: Sequence[Run],
    *,
    device: str,
    console: Console,
    jobs: int = 1,
    together: int = 1,
) -> Outcome:
    """Do what is missing of these runs, then score all runs of the folder that are finished.

    `jobs` runs are done at once, each in a process of its own. `together` subjects are trained side
    by side in one process where the method can do so.

    Raises UserError for what stops everything (settings, references, weights, the disk); a run that
    fails by itself is reported in the outcome. KeyboardInterrupt and Terminated pass through;
    whatever is complete by then stays.
    """
    workspace = Workspace(out)
    plan = make_plan(suite, out, source, runs, device)
    plan.identities.resolve_methods(workspace.selection().join(runs).methods)
    with _terminations(), workspace.locked(), storage_errors(out):
        workspace.refuse_other(suite)
        selection = workspace.selection().join(runs)
        plan.identities.resolve_methods(selection.methods)
        models = Models(plan, device)
        tasks = plan.tasks(runs)
        while models.load_for(tasks, lambda text: console.print(text, style="dim")):
            tasks = plan.tasks(runs)  # What was loaded may be another than was remembered.
        workspace.refuse_if_full(estimate_bytes(plan, tasks), suite)
        workspace.write(plan, selection, device)
        outcome = Outcome()
        session = Session(plan, models, workspace, outcome, together=together)
        if tasks:
            session.start(len(tasks))
            with show(console, tasks) as progress:
                if jobs > 1:
                    from dbbench.workers import work_at_once

                    work_at_once(session, tasks, jobs, progress)
                else:
                    session.work(tasks, progress)
        finished = finished_runs(plan, selection.runs(suite))
        if finished and not scored(plan, finished):
            meter = Meter()
            count = score(plan, finished)
            EventLog(out / EVENTS).write(
                stage="score", status="done", **meter.read(count, "images")
            )
            outcome.done += 1
        return outcome


@dataclass
class Session:
    """The work of one call, or of one of its processes."""

    plan: Plan
    models: Models
    workspace: Workspace
    outcome: Outcome
    store: FeatureStore = field(default_factory=FeatureStore)
    together: int = 1
    failed: dict[str, Failure] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    """Trainings that were done side by side with another: key -> its name."""

    @property
    def events(self) -> EventLog:
        """What each task cost."""
        return EventLog(self.plan.out / EVENTS)

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
        self._log(task).unlink(missing_ok=True)
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
            failure = Failure(task, reason, self._log(task))
            write_text(failure.log, "".join(traceback.format_exception(error)))
            self.outcome.failures.append(failure)
        self.failed[task.key] = failure
        return failure

    def _log(self, task: Task) -> Path:
        name = task.name.replace("/", "-").replace(" ", "-")
        return self.plan.out / "logs" / f"{name}.{task.stage}.log"


def _check_names(suite: Suite, runs: Sequence[Run]) -> None:
    """Raise UserError for a plugin that does not exist and an encoder that a metric lacks."""
    for method in [*suite.methods, *(run.method for run in runs)]:
        find("methods", variant(suite, method).plugin)
    for reference in suite.encoders.values():
        find("encoders", reference.partition(":")[0])
    for name in suite.metrics:
        role = load_metric(name).role
        if role not in suite.encoders:
            raise UserError(
                f'metric {name} needs an encoder in the role "{role}" and suite "{suite.name}" has'
                f" none; add one: --set encoders.{role}=..."
            )


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


@contextmanager
def _terminations() -> Iterator[None]:
    """While open, SIGTERM and SIGHUP unwind the stack like Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    wanted = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    before = {number: signal.signal(number, stop) for number in wanted if number is not None}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
