"""What a node of a cluster does with one task, and what it says of it afterwards."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from typing_extensions import override

from dbbench.errors import UserError
from dbbench.evaluation.features import FeatureStore
from dbbench.planning.identity import Identities
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.plugins import add_method_file
from dbbench.running.executors.relay import Relay
from dbbench.running.loop import work
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.session import Failure, Outcome, Session
from dbbench.running.workspace import Workspace
from dbbench.storage.artifact import Artifact
from dbbench.storage.events import Log
from dbbench.storage.remote import RemoteArtifact


@dataclass(frozen=True)
class Order:
    """What every task of one call has to know; two orders are the same if their tokens are."""

    token: str
    plan: Plan = field(compare=False)
    options: RunOptions = field(compare=False)
    threads: int = field(compare=False)
    jobs: int = field(default=1, compare=False)
    """Tasks at a time on one GPU."""


@dataclass
class Report:
    """What came of one task."""

    node: str = ""
    worker: str = ""
    summary: str = "failed"
    done: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    """Tasks that later ones need and cannot have."""
    failures: list[Failure] = field(default_factory=list)
    """What went wrong here, where `failed` may come from a task before."""
    log: str = ""
    put_off: bool = False
    """What it reads turned out to be damaged; another round of planning makes that again."""
    stop: str | None = None
    """Why nothing can go on, such as a full disk."""


def do_task(
    order: Order, task: Task, failed: Mapping[str, Failure], queue: Any, *before: Report
) -> Report:
    """Do one task, unless one that it needs has failed; runs in a process of Ray's.

    What an earlier attempt, whose answer was lost with its node, has left whole is not made again.
    """
    node = _name()
    report = Report(node, worker=f"{node}:{os.getpid()}")
    relay = Relay(report.worker, queue.put_nowait)
    try:
        models = _models(order)
        plan, task = models.plan, _here(models.plan, task)
        session = Session(
            plan,
            models,
            Workspace(plan.out),
            Outcome(),
            order.options,
            _store(order),
            log=_Kept(report.events),
        )
        session.failed |= failed
        for earlier in before:
            session.failed |= earlier.failed
        if any(earlier.put_off for earlier in before):
            report.put_off, report.summary = True, "put off"
            return report
        if all(artifact.verify() == "done" for _, artifact in task.artifacts):
            report.summary = "was there already"
            return report
        _check(order.plan.identities, models, task)
        work(session, [task], relay)
        if session.put_off:
            report.stop = f"what {task.key} reads was damaged; the same command makes it again"
        report.summary = relay.summary
        report.done = session.outcome.done
        report.put_off = task.key in session.put_off
        report.failures = session.outcome.failures
        if task.key in session.failed:
            report.failed = {task.key: session.failed[task.key]}
            log = session.log_of(task)
            report.log = log.read_text(encoding="utf-8") if log.is_file() else ""
    except UserError as error:
        report.stop = str(error)
    return report


def identify(order: Order) -> Identities:
    """Load backbone and encoders; return their fingerprints on this kind of node."""
    models = _models(order)
    _ = models.backbone
    for role in models.plan.roles:
        models.encoder(role)
    return models.identities


def run_parts(order: Order, function: Callable[[Plan, Any], Any], item: Any) -> Any:
    """Return function(plan, item) as this node sees the plan."""
    return function(_on_this_disk(order.plan), item)


@lru_cache(maxsize=1)
def _models(order: Order) -> Models:
    """Return the networks of this process, loaded when a task first needs them."""
    import torch

    from dbbench.generation.memory import take_share

    for reference in order.plan.suite.method_files.values():
        add_method_file(reference)
    if order.options.device == "cpu":
        torch.set_num_threads(order.threads)
    take_share(order.options.device, order.jobs)
    # A copy: loading enters what is here, and the order keeps what is expected.
    known = order.plan.identities
    here = replace(known, encoders=dict(known.encoders), methods=dict(known.methods))
    return Models(replace(_on_this_disk(order.plan), identities=here), order.options.device)


@lru_cache(maxsize=1)
def _store(order: Order) -> FeatureStore:
    """Return the feature store of this process: it knows which of the cache's files it has read."""
    return FeatureStore()


def _on_this_disk(plan: Plan) -> Plan:
    """Return the plan with this node's own mirror, where artifacts are at home elsewhere."""
    return plan if plan.remote is None else replace(plan, out=plan.remote.mirror, _made={})


def _here(plan: Plan, task: Task) -> Task:
    """Return the task with its artifacts in the plan's folder."""
    moved: list[tuple[str, Artifact]] = []
    for role, item in task.artifacts:
        if isinstance(item, RemoteArtifact):
            item = replace(item, path=plan.out / item.key)
        moved.append((role, item))
    return replace(task, artifacts=tuple(moved))


def _check(expected: Identities, models: Models, task: Task) -> None:
    """Raise UserError where this node's weights are not those that the plan was made with."""
    if task.stage != "encode":
        if models.backbone.fingerprint != expected.backbone:
            raise UserError(f"its backbone is another than the plan's; {_SAME}")
        return
    for role, _ in task.artifacts:
        if models.encoder(role).fingerprint != expected.encoders.get(role):
            raise UserError(f'its encoder "{role}" is another than the plan\'s; {_SAME}')


_SAME = "install the same packages and weights on all nodes"


@dataclass
class _Kept(Log):
    """Takes events in place of a file."""

    events: list[dict[str, Any]]

    @override
    def write(self, **event: Any) -> None:
        self.events.append(event)


def _name() -> str:
    """Return what tells this node from others, several of which may be on one machine."""
    import ray

    return f"{socket.gethostname()}-{ray.get_runtime_context().get_node_id()[:6]}"
