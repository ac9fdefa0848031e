"""One task: its stage is called with the artifacts that it reads, once they are found whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from dbbench.advance import Advance
from dbbench.evaluation.encoder import Distance
from dbbench.planning.task import Task
from dbbench.running import stages
from dbbench.running.display.progress import Progress
from dbbench.running.display.tracker import RecordFigures, tracked
from dbbench.running.session import Session
from dbbench.storage.leases import Leases
from dbbench.storage.run_folder import images_in


def do(
    session: Session, task: Task, later: Iterable[Task], progress: Progress, leases: Leases
) -> tuple[int, str]:
    """Do one task of a session; return how many steps or images it took.

    `later` are the tasks that are still to do. Raises Damaged where what it reads is not, to the
    last byte, what was once written.
    """
    with tracked(session.options.tracker, task, session.plan.out) as record:
        return _carry_out(session, task, later, progress, leases, record)


def _carry_out(
    session: Session,
    task: Task,
    later: Iterable[Task],
    progress: Progress,
    leases: Leases,
    record: RecordFigures,
) -> tuple[int, str]:
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
            batch = 2**62  # It stops by itself, once its state is kept.
        with ExitStack() as stack:
            if mates := _mates(session, task, later, leases, stack):
                try:
                    return _train_together(session, [task, *mates], advance), "steps"
                except Exception as error:
                    progress.note(f"not side by side, but one by one: {error}")
        prior, references = plan.prior_of(run), plan.references(subject.name)
        for read in filter(None, (references, prior)):
            read.require()
        count = stages.train(
            artifact, run, subject, method, backbone,
            references=references, prior=prior, row=row, advance=advance,
            interval=session.options.interval, stop=session.stop,
        )  # fmt: skip
        return count, "steps"
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
    session: Session, task: Task, later: Iterable[Task], leases: Leases, stack: ExitStack
) -> list[Task]:
    """Trainings that can be done side by side with a task: of the same method, not blocked.

    Their leases are held until the stack is closed.
    """
    assert task.run is not None
    method = task.run.method
    learner = session.models.method(session.plan.row(task.run))
    if session.options.together == 1 or learner.needs_prior or not hasattr(learner, "fit_many"):
        return []
    subjects = {task.subject}
    mates: list[Task] = []
    for other in later:
        if other.stage != "train" or other.run is None or other.run.method != method:
            continue
        if any(before.key in other.needs for before in later):
            continue
        blocked = any(key in session.failed for key in other.needs)
        if blocked or other.key in session.made or other.subject in subjects:
            continue
        room = len(mates) + 1 < session.options.together
        if room and not _is_taken(other, leases, stack):
            subjects.add(other.subject)
            mates.append(other)
    return mates


def _is_taken(task: Task, leases: Leases, stack: ExitStack) -> bool:
    """Whether another process makes, or has made, what a task makes; else it is ours."""
    if (lease := leases.take(task.key)) is None:
        return True
    stack.callback(leases.release, lease)
    return all(artifact.complete for _, artifact in task.artifacts)


def _train_together(session: Session, tasks: Sequence[Task], advance: Advance) -> int:
    plan, runs = session.plan, [task.run for task in tasks if task.run is not None]
    row, references = plan.row(runs[0]), [plan.references(run.subject) for run in runs]
    for read in references:
        read.require()
    count = stages.train_together(
        [task.artifacts[0][1] for task in tasks],
        runs,
        [plan.subjects[run.subject] for run in runs],
        session.models.method(row),
        session.models.backbone,
        references=references,
        row=row,
        advance=advance,
        interval=session.options.interval,
        stop=session.stop,
    )
    session.made |= {task.key: tasks[0].name for task in tasks[1:]}
    return count


def _encode(session: Session, task: Task, advance: Advance) -> int:
    assert task.subject is not None
    images = session.plan.references(task.subject)
    if task.run is not None:
        images = session.plan.samples(task.run)
    images.require()
    encoders = {role: session.models.encoder(role) for role, _ in task.artifacts}
    # All at once, so that an image is decoded once for all; then each from the store.
    alike = [encoder for encoder in encoders.values() if not isinstance(encoder, Distance)]
    session.store.encode_with(alike, images_in(images).paths, advance=advance)
    count = 0
    for role, artifact in task.artifacts:
        texts = task.run is not None and role in session.plan.text_roles
        count += stages.encode(artifact, images, encoders[role], texts=texts, store=session.store)
    return count
