"""A node of a Ray cluster: it does one task and returns a report."""

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
from dbbench.running.session import Failure, Session
from dbbench.storage.events import Log
from dbbench.storage.leases import Leases
from dbbench.storage.remote import RemoteArtifact


@dataclass(frozen=True)
class Order:
    """What every task of one call needs; orders with the same token are equal."""

    token: str
    plan: Plan = field(compare=False)
    options: RunOptions = field(compare=False)
    threads: int = field(compare=False)
    jobs: int = field(default=1, compare=False)
    """Tasks at a time on one GPU."""


@dataclass
class Report:
    """The result of one task."""

    node: str = ""
    worker: str = ""
    summary: str = "failed"
    done: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    """Task key -> failure, for the later tasks that need it."""
    failures: list[Failure] = field(default_factory=list)
    """Failures of this task itself; `failed` also has those of needed tasks."""
    log: str = ""
    put_off: bool = False
    """Whether its inputs were damaged; the next round of planning repeats them."""
    stop: str | None = None
    """A problem that stops all tasks, such as a full disk."""


def do_task(
    order: Order, task: Task, failed: Mapping[str, Failure], queue: Any, *before: Report
) -> Report:
    """Do one task in a process of Ray, unless a task that it needs has failed.

    Artifacts are not made again if an attempt on a lost node has completed them.
    """
    import ray

    # Several nodes may be on one machine.
    node = f"{socket.gethostname()}-{ray.get_runtime_context().get_node_id()[:6]}"
    report = Report(node, worker=f"{node}:{os.getpid()}")
    relay = Relay(report.worker, queue.put_nowait)
    try:
        models = _models(order)
        plan, task = models.plan, _here(models.plan, task)
        kept = _KeptEvents(report.events)
        session = Session(plan, models, order.options, Leases(plan.out), _store(order), kept)
        session.failed |= failed
        for earlier in before:
            session.failed |= earlier.failed
        if any(earlier.put_off for earlier in before):
            report.put_off, report.summary = True, "put off"
            return report
        if task.verified:
            report.summary = "was complete already"
            return report
        _check(order.plan.identities, models, task)
        with session.leases:
            work(session, [task], relay)
        if session.put_off:
            report.stop = f"the inputs of {task.key} were damaged; rerun the same command"
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
    """Load backbone and encoders; return their fingerprints on this node."""
    models = _models(order)
    _ = models.backbone
    for role in models.plan.roles:
        models.encoder(role)
    return models.identities


def run_parts(order: Order, function: Callable[[Plan, Any], Any], item: Any) -> Any:
    """Return function(plan, item), with the plan's folder on this node."""
    return function(_on_this_disk(order.plan), item)


@lru_cache(maxsize=1)
def _models(order: Order) -> Models:
    """Return the networks of this process; each is loaded when a task first needs it."""
    import torch

    from dbbench.generation.memory import take_share

    for reference in order.plan.suite.method_files.values():
        add_method_file(reference)
    if order.options.device == "cpu":
        torch.set_num_threads(order.threads)
    take_share(order.options.device, order.jobs)
    # A copy: loading changes it, and the order keeps the expected fingerprints.
    known = order.plan.identities
    here = replace(known, encoders=dict(known.encoders), methods=dict(known.methods))
    return Models(replace(_on_this_disk(order.plan), identities=here), order.options.device)


@lru_cache(maxsize=1)
def _store(order: Order) -> FeatureStore:
    """Return the feature store of this process, which remembers what it read from the cache."""
    return FeatureStore()


def _on_this_disk(plan: Plan) -> Plan:
    """Return the plan with this node's mirror if the output folder is remote."""
    return plan if plan.remote is None else replace(plan, out=plan.remote.mirror, _made={})


def _here(plan: Plan, task: Task) -> Task:
    """Return the task with its artifacts in the plan's folder."""
    artifacts = tuple(
        (role, replace(a, path=plan.out / a.key) if isinstance(a, RemoteArtifact) else a)
        for role, a in task.artifacts
    )
    return replace(task, artifacts=artifacts)


def _check(expected: Identities, models: Models, task: Task) -> None:
    """Raise UserError if this node's weights have other fingerprints than the plan."""
    if task.stage != "encode":
        if models.backbone.fingerprint != expected.backbone:
            raise UserError(f"its backbone differs from the plan's; {_SAME}")
        return
    for role, _ in task.artifacts:
        if models.encoder(role).fingerprint != expected.encoders.get(role):
            raise UserError(f'its encoder "{role}" differs from the plan\'s; {_SAME}')


_SAME = "install the same packages and weights on all nodes"


@dataclass
class _KeptEvents(Log):
    """Appends events to a list instead of a file."""

    events: list[dict[str, Any]]

    @override
    def write(self, **event: Any) -> None:
        self.events.append(event)
