"""Executor: does what a plan leaves to do, in this process; a failed run stops no other."""

from __future__ import annotations

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
from dbbench.errors import UserError
from dbbench.events import EVENTS, EventLog, Meter
from dbbench.features import FeatureStore
from dbbench.identity import Identities, versions
from dbbench.models import Models
from dbbench.plan import Plan, Task
from dbbench.plugin import find, load_metric
from dbbench.progress import Advance, Progress, show
from dbbench.scoring import finished_runs, score, scored
from dbbench.subject import ImageSource, load_subjects
from dbbench.suite import Run, Suite
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
) -> Outcome:
    """Do what is missing of these runs, then score all runs of the folder that are finished.

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
        if tasks:
            _Session(plan, models, workspace, outcome).work(tasks, console)
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
class _Session:
    """The work of one call."""

    plan: Plan
    models: Models
    workspace: Workspace
    outcome: Outcome
    store: FeatureStore = field(default_factory=FeatureStore)
    failed: dict[str, Failure] = field(default_factory=dict)

    def work(self, tasks: Sequence[Task], console: Console) -> None:
        events = EventLog(self.plan.out / EVENTS)
        events.write(stage="start", tasks=len(tasks), versions=versions(), **_machine(self.models))
        runs = list(dict.fromkeys(task.run for task in tasks if task.run is not None))
        with show(console, tasks) as progress:
            for position, task in enumerate(tasks):
                if task.stage == "train":
                    rest = estimate_bytes(self.plan, tasks[position:])
                    self.workspace.refuse_if_full(rest, self.plan.suite)
                number = runs.index(task.run) + 1 if task.run is not None else 0
                progress.begin(task, number, len(runs))
                meter = Meter()
                try:
                    count, unit = self._do(task, progress)
                except Exception as error:
                    problem = storage_problem(error, self.plan.out)
                    if problem is not None:
                        raise problem from error
                    if task.stage == "references" and isinstance(error, UserError):
                        raise
                    failure = self._fail(task, error)
                    events.write(**_about(task), status="failed", reason=failure.reason)
                    progress.note(f"{task.stage} {task.name} failed: {failure.reason}")
                    progress.end("failed")
                    continue
                measured = meter.read(count, unit)
                events.write(**_about(task), status="done", **measured)
                progress.end(_summary(measured, unit))
                self._log(task).unlink(missing_ok=True)
                self.outcome.done += 1

    def _do(self, task: Task, progress: Progress) -> tuple[int, str]:
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
        method, backbone = models.method(run.method), models.backbone
        if task.stage == "train":
            prior = plan.prior(subject.class_noun) if method.needs_prior else None
            references = plan.references(subject.name)
            count = stages.train(
                artifact, run, subject, method, backbone,
                references=references, prior=prior, advance=advance,
            )  # fmt: skip
            return count, "steps"
        checkpoint = plan.checkpoint(run)
        count = stages.sample(
            artifact, run, subject, method, backbone,
            checkpoint=checkpoint, settings=plan.suite.sample, jobs=plan.jobs(run), advance=advance,
        )  # fmt: skip
        if not plan.suite.keep_checkpoints:
            checkpoint.remove()
        return count, "images"

    def _encode(self, task: Task, advance: Advance) -> int:
        assert task.subject is not None
        images = self.plan.references(task.subject)
        if task.run is not None:
            images = self.plan.samples(task.run)
        encoders = {role: self.models.encoder(role) for role, _ in task.artifacts}
        # All at once, so that an image is decoded once for all; then each from the store.
        self.store.encode_with(list(encoders.values()), stages.image_files(images), advance=advance)
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
        find("methods", method)
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


def _machine(models: Models) -> dict[str, Any]:
    import platform

    import torch

    return {
        "device": models.device,
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
