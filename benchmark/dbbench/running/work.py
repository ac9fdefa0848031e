"""Do one task: verify the artifacts that its stage reads, then call the stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from dbbench.advance import Advance
from dbbench.evaluation.encoder import Distance
from dbbench.planning.task import Task
from dbbench.running import stages
from dbbench.running.display.progress import Progress
from dbbench.running.display.tracker import RecordFigures
from dbbench.running.session import Session
from dbbench.storage.run_folder import images_in
from dbbench.suites.runs import Run


def do(
    session: Session, task: Task, later: Iterable[Task], progress: Progress, record: RecordFigures
) -> tuple[int, str]:
    """Do one task; return the number of steps or images, and which of the two it is.

    `later` are the tasks that are not done yet; `record` gets the figures of a training. Raises
    Damaged if an artifact that the stage reads does not match its manifest.
    """
    plan, models = session.plan, session.models

    def advance(done: int, total: int, figures: Mapping[str, Any], /) -> None:
        record(done, figures)
        loss = figures.get("loss")
        progress.advance(done, total, "" if loss is None else f"loss {loss:.3f}")
        if done % batch == 0:
            session.stop.check()

    batch = {
        "prior": plan.suite.prior.sampler.batch_size,
        "sample": plan.suite.sample.batch_size,
    }.get(task.stage, 1)
    artifact = task.artifacts[0][1]
    if task.stage == "prior":
        assert task.class_noun is not None
        settings = plan.suite.prior
        count = stages.prior(artifact, task.class_noun, settings, models.backbone, advance)
        return count, "images"
    assert task.subject is not None
    subject, run = plan.subjects[task.subject], task.run
    if task.stage == "references":
        resolution = plan.suite.backbone.resolution
        return stages.references(artifact, subject, plan.dataset, resolution), "images"
    if task.stage == "encode":
        return _encode(session, task, advance), "images"
    assert run is not None
    row, backbone = plan.row(run), models.backbone
    method = models.method(row)
    if task.stage == "train":
        if stages.resumable(method):
            batch = 2**62  # It saves its state and stops by itself.
        with ExitStack() as stack:
            if mates := _mates(session, task, run, later, stack):
                try:
                    return _train(session, [task, *mates], advance), "steps"
                except Exception as error:
                    progress.note(f"not trained together, but one by one: {error}")
        return _train(session, [task], advance), "steps"
    checkpoint = plan.checkpoint(run)
    checkpoint.require()
    count = stages.sample(
        artifact, run, subject, method, backbone,
        checkpoint=checkpoint, settings=plan.suite.sample, jobs=plan.jobs(run), row=row,
        advance=advance,
    )  # fmt: skip
    shared = any(plan.suite.row(name).base for name in plan.suite.methods)
    if not plan.suite.keep_checkpoints and not shared:
        checkpoint.remove()
    return count, "images"


def _mates(
    session: Session, task: Task, run: Run, later: Iterable[Task], stack: ExitStack
) -> list[Task]:
    """Return the trainings to do together with a task: those of its method that are not blocked.

    Their leases are held until the stack is closed.
    """
    method = session.models.method(session.plan.row(run))
    if session.options.together == 1 or method.needs_prior or not hasattr(method, "fit_many"):
        return []
    subjects = {run.subject}
    mates: list[Task] = []
    for other in later:
        if other.stage != "train" or other.run is None or other.run.method != run.method:
            continue
        if other.run.subject in subjects or other.key in session.made:
            continue
        if any(key in session.failed for key in other.needs):
            continue
        if any(before.key in other.needs for before in later):
            continue
        if len(mates) + 1 < session.options.together:
            lease = stack.enter_context(session.leases.trying(other.key))
            if lease is not None and not other.complete:
                subjects.add(other.run.subject)
                mates.append(other)
    return mates


def _train(session: Session, tasks: Sequence[Task], advance: Advance) -> int:
    plan, runs = session.plan, [task.run for task in tasks if task.run is not None]
    row, prior = plan.row(runs[0]), plan.prior_of(runs[0])
    references = [plan.references(run.subject) for run in runs]
    for read in filter(None, (*references, prior)):
        read.require()
    count = stages.train(
        [task.artifacts[0][1] for task in tasks], runs, [plan.subjects[r.subject] for r in runs],
        session.models.method(row), session.models.backbone,
        references=references, prior=prior, row=row, advance=advance,
        interval=session.options.interval, stop=session.stop,
    )  # fmt: skip
    session.made |= {task.key: tasks[0].name for task in tasks[1:]}
    return count


def _encode(session: Session, task: Task, advance: Advance) -> int:
    assert task.subject is not None
    images = session.plan.references(task.subject)
    if task.run is not None:
        images = session.plan.samples(task.run)
    images.require()
    encoders = {role: session.models.encoder(role) for role, _ in task.artifacts}
    # All encoders at once, so that each image is decoded once; `encode` then reads the store.
    plain = [encoder for encoder in encoders.values() if not isinstance(encoder, Distance)]
    session.store.encode_with(plain, images_in(images).paths, advance=advance)
    count = 0
    for role, artifact in task.artifacts:
        texts = task.run is not None and role in session.plan.text_roles
        count += stages.encode(artifact, images, encoders[role], texts=texts, store=session.store)
    return count
