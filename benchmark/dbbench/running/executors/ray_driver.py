"""Ray as executor: each task of a plan becomes a Ray task; Ray assigns nodes and retries."""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

from typing_extensions import override

from dbbench.errors import UserError
from dbbench.files import write_text
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.running.display.progress import Progress
from dbbench.running.executors.local import Executor
from dbbench.running.executors.ray_node import Order, Report, do_task, identify, run_parts
from dbbench.running.executors.relay import Message, show_message
from dbbench.running.loop import work
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.session import Failure, Session
from dbbench.suites.runs import Run
from dbbench.units import parse_size

RETRIES = 5
"""How often Ray repeats a task whose node or process died."""
REACH_SECONDS = 10
WAIT_SECONDS = 0.5
HERE = {"references"}  # The nodes may lack the photographs, and these tasks are quick.


@dataclass(frozen=True)
class Needs:
    """The resources that Ray reserves for one task."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 2 * 10**9
    """Bytes of main memory; Ray counts them but does not enforce the limit."""


@dataclass
class Cluster(Executor):
    """An executor whose tasks run on the nodes of a Ray cluster."""

    ray: Any
    needs: Needs
    device: str = "cpu"
    """The device of its tasks."""
    _messages: Any = None

    @override
    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        """Let a node load the networks with unknown fingerprints; return whether there were any."""
        plan = models.plan
        known = plan.identities
        if known.backbone is not None and set(plan.roles) <= set(known.encoders):
            return False
        self._fitting()  # Without a fitting node, Ray would wait forever.
        say("a node of the cluster loads backbone and encoders to compute their fingerprints")
        order = self._order(plan, RunOptions(models.device))
        found = self._get(self._remote(identify, self.needs.gpus).remote(order))
        known.backbone = found.backbone
        known.encoders.update(found.encoders)
        return True

    @override
    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Submit all tasks to Ray with their dependencies, and record each result.

        Raises UserError for a problem that stops all tasks.
        """
        work(session, [task for task in tasks if task.stage in HERE], progress)
        away = [task for task in tasks if task.stage not in HERE]
        if not away:
            return
        messages = self._messages = self._messages or self._queue()
        waiting = self._submit(session, away)
        board = _Board(progress, list(dict.fromkeys(task.run for task in away if task.run)))
        try:
            while waiting:
                ready, _ = self.ray.wait(
                    list(waiting), num_returns=len(waiting), timeout=WAIT_SECONDS
                )
                session.stop.check()
                board.show(messages.get_nowait_batch(messages.qsize()))
                for ref in ready:
                    self._end(session, waiting.pop(ref), ref, board)
        finally:
            for ref in waiting:
                with suppress(Exception):
                    self.ray.cancel(ref, force=True)

    @override
    def map(
        self, plan: Plan, function: Callable[[Plan, Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """Yield function(plan, item) for each item, in order; a limited number runs at a time."""
        order = self._order(plan, RunOptions(plan.identities.device))
        width = 2 * max(1, int(self.ray.cluster_resources().get("CPU", 1) // self.needs.cpus))
        remote = self._remote(run_parts, 0.0)
        waiting: list[Any] = []
        for item in items:
            waiting.append(remote.remote(order, function, item))
            if len(waiting) >= width:
                yield self._get(waiting.pop(0))
        while waiting:
            yield self._get(waiting.pop(0))

    def _submit(self, session: Session, tasks: Sequence[Task]) -> dict[Any, Task]:
        """Return the reference of each Ray task with its task."""
        order = self._order(session.plan, session.options)
        homes = self._homes(session.plan, tasks)
        remote = self._remote(do_task, self.needs.gpus)
        refs: dict[str, Any] = {}
        for task in tasks:
            failed = {key: session.failed[key] for key in task.needs if key in session.failed}
            needed = [refs[key] for key in task.needs if key in refs]
            placed = remote.options(
                name=task.key, scheduling_strategy=homes[_noun(session.plan, task)]
            )
            refs[task.key] = placed.remote(order, task, failed, self._messages, *needed)
        return dict(zip(refs.values(), tasks, strict=True))

    def _end(self, session: Session, task: Task, ref: Any, board: _Board) -> None:
        """Record the result of a task in the session."""
        log = session.log_of(task)
        try:
            report: Report = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            lost = not isinstance(error, self.ray.exceptions.RayTaskError)
            what = f"its node or process was lost {RETRIES + 1} times: " if lost else ""
            failure = Failure(task, f"{what}{_first_line(error)}", log)
            report = Report(failed={task.key: failure}, failures=[failure], log=f"{error}\n")
        if report.stop is not None:
            raise UserError(f"node {report.node}: {report.stop}")
        for event in report.events:
            session.events.write(**event, node=report.node, attempts=board.attempts[task.key])
        for failure in report.failures:
            write_text(log, report.log)
            session.outcome.failures.append(Failure(task, failure.reason, log))
        session.failed.update(report.failed)
        board.end(task, report)
        if report.put_off:
            session.put_off.add(task.key)
        if report.failed or report.put_off:
            return
        if not task.complete:
            raise UserError(
                f"node {report.node} finished {task.key}, but its output is not in"
                f" {session.plan.out}; --out must be a folder that all nodes share, or an address"
                " such as s3://bucket/folder"
            )
        log.unlink(missing_ok=True)
        session.outcome.done += report.done

    def _homes(self, plan: Plan, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return the preferred node for the tasks of each class noun.

        Class images and the trainings that read them are then on one disk.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = cycle(self._fitting())
        nouns = dict.fromkeys(_noun(plan, task) for task in tasks)
        return {
            noun: NodeAffinitySchedulingStrategy(
                next(nodes)["NodeID"], soft=True, _spill_on_unavailable=True
            )
            for noun in nouns
        }

    def _fitting(self) -> list[Mapping[str, Any]]:
        """Return the nodes that are large enough for a task. Raises UserError if there is none."""
        wanted = {"CPU": self.needs.cpus, "GPU": self.needs.gpus, "memory": self.needs.memory}
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        fitting = [
            node
            for node in alive
            if all(node["Resources"].get(name, 0) >= value for name, value in wanted.items())
        ]
        if not fitting:
            asked = ", ".join(f"{value:g} {name}" for name, value in wanted.items() if value)
            raise UserError(
                f"none of the cluster's {len(alive)} nodes is large enough for a task ({asked});"
                " request less with --cpus-per-task, --memory-per-task or --jobs-per-device"
            )
        return fitting

    def _order(self, plan: Plan, options: RunOptions) -> Any:
        """Store what every task needs in Ray, for all nodes."""
        threads = max(1, int(self.needs.cpus))
        jobs = round(1 / self.needs.gpus) if self.needs.gpus else 1
        return self.ray.put(Order(uuid.uuid4().hex, plan, options, threads, jobs))

    def _remote(self, function: Callable[..., Any], gpus: float) -> Any:
        """Return the function as a Ray task; its process and networks are kept for later tasks."""
        return self.ray.remote(
            max_calls=0, max_retries=RETRIES,
            num_cpus=self.needs.cpus, num_gpus=gpus, memory=self.needs.memory,
        )(function)  # fmt: skip

    def _queue(self) -> Any:
        """Return a queue on the driver's node, so that it survives the loss of any other node."""
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self.ray.get_runtime_context().get_node_id()
        place = NodeAffinitySchedulingStrategy(here, soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": place})

    def _get(self, ref: Any) -> Any:
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, UserError) else error) from None
        except self.ray.exceptions.RayError as error:
            raise UserError(f"the cluster failed: {_first_line(error)}") from error


@dataclass
class _Board:
    """The running tasks of the workers, by their messages so far."""

    progress: Progress
    runs: Sequence[Run]
    attempts: Counter[str] = field(default_factory=Counter)
    """Task key -> how often it was started."""
    _workers: dict[str, Task] = field(default_factory=dict)

    def show(self, messages: Sequence[Message]) -> None:
        """Show the messages, except the end of a task: it ends when Ray has its report."""
        for worker, kind, content in messages:
            if kind == "begin":
                self._workers[worker] = content
                self.attempts[content.key] += 1
            if kind != "end":
                show_message((worker, kind, content), self.runs, self.progress)

    def end(self, task: Task, report: Report) -> None:
        """Show that a task has ended, on the worker of its report."""
        if self._workers.get(report.worker) != task:
            self.progress.begin(task, 0, 0, report.worker)
        self._workers.pop(report.worker, None)
        self.progress.end(report.summary, report.worker)


@contextmanager
def connected(
    address: str, cpus: float = 1.0, jobs: int = 1, memory: str = "2GB", device: str = "auto"
) -> Iterator[Cluster]:
    """Connect to a Ray cluster while open: "auto", host:port, or "local" for a new one here.

    A task gets `cpus`, `memory` and, if the device is a GPU, 1 / `jobs` of one. With device "auto"
    it is a GPU if the cluster has any. Raises UserError if there is no cluster or no Ray.
    """
    size = parse_size(memory, "--memory-per-task")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if re.fullmatch(r"[^:/]+:\d+", address):  # Ray itself would try for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
        import ray

        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except ImportError:
        raise UserError('--executor ray needs Ray: pip install "dbbench[ray]"') from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise UserError(
            f'no Ray cluster at "{address}" ({reason}); start one with "ray start --head", or'
            " choose --address local"
        ) from None
    try:
        cluster = Cluster(ray, Needs(cpus, memory=size), device)
        if device == "auto":
            cluster.device = "cuda" if cluster.ray.cluster_resources().get("GPU") else "cpu"
        if cluster.device.startswith("cuda"):
            cluster.needs = replace(cluster.needs, gpus=1 / jobs)
        yield cluster
    finally:
        ray.shutdown()


def _noun(plan: Plan, task: Task) -> str:
    if task.class_noun is not None:
        return task.class_noun
    assert task.subject is not None
    return plan.subjects[task.subject].class_noun


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
