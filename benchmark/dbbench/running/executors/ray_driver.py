"""Ray as executor: each task of a plan becomes a Ray task; Ray places, retries and waits."""

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
"""How often Ray gives a task to another process when its node or process dies."""
REACH_SECONDS = 10
WAIT_SECONDS = 0.5
HERE = {"references"}  # Only the driver is sure to have the photographs, and they take no time.


@dataclass(frozen=True)
class Needs:
    """What Ray sets aside for one task."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 2 * 10**9
    """Bytes of main memory; Ray counts them and does not enforce them."""

    def options(self) -> dict[str, Any]:
        """Return these resources under the names that Ray uses."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}


@dataclass
class Cluster(Executor):
    """An executor whose tasks run on the nodes of a Ray cluster."""

    ray: Any
    needs: Needs
    device: str = "cpu"
    """What its tasks compute on."""
    _news: Any = None

    @override
    def identify(self, models: Models, tasks: Sequence[Task], say: Callable[[str], None]) -> bool:
        """Have a node load what is not known yet; return whether anything was."""
        plan = models.plan
        known = plan.identities
        if known.backbone is not None and set(plan.roles) <= set(known.encoders):
            return False
        self._fitting()  # Ray would wait for ever.
        say("a node of the cluster loads backbone and encoders to tell which they are")
        found = self._get(
            self._remote(identify).remote(self._order(plan, RunOptions(models.device)))
        )
        known.backbone = found.backbone
        known.encoders.update(found.encoders)
        return True

    @override
    def work(self, session: Session, tasks: Sequence[Task], progress: Progress) -> None:
        """Give all tasks to Ray at once, each with those it waits for, and take note of the ends.

        Raises UserError where something stops everything.
        """
        work(session, [task for task in tasks if task.stage in HERE], progress)
        away = [task for task in tasks if task.stage not in HERE]
        if not away:
            return
        news = self._news = self._news or self._queue()
        waiting = dict(zip(self._submit(session, away, news), away, strict=True))
        board = _Board(progress, [task.run for task in away if task.run is not None])
        try:
            while waiting:
                ready, _ = self.ray.wait(
                    list(waiting), num_returns=len(waiting), timeout=WAIT_SECONDS
                )
                session.stop.check()
                board.show(news.get_nowait_batch(news.qsize()))
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
        """Yield function(plan, item) for each item, in order; a few are under way at a time."""
        order = self._order(plan, RunOptions(plan.identities.device))
        width = 2 * max(1, int(self.ray.cluster_resources().get("CPU", 1) // self.needs.cpus))
        remote = self._remote(run_parts, gpus=0.0)
        waiting: list[Any] = []
        for item in items:
            waiting.append(remote.remote(order, function, item))
            if len(waiting) >= width:
                yield self._get(waiting.pop(0))
        while waiting:
            yield self._get(waiting.pop(0))

    def _submit(self, session: Session, tasks: Sequence[Task], news: Any) -> list[Any]:
        order = self._order(session.plan, session.options)
        homes = self._homes(session.plan, tasks)
        remote = self._remote(do_task)
        refs: dict[str, Any] = {}
        for task in tasks:
            failed = {key: session.failed[key] for key in task.needs if key in session.failed}
            needed = [refs[key] for key in task.needs if key in refs]
            placed = remote.options(
                name=task.key, scheduling_strategy=homes[_noun(session.plan, task)]
            )
            refs[task.key] = placed.remote(order, task, failed, news, *needed)
        return list(refs.values())

    def _end(self, session: Session, task: Task, ref: Any, board: _Board) -> None:
        """Enter what came of a task into the session."""
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
        if not all(artifact.complete for _, artifact in task.artifacts):
            raise UserError(
                f"{task.stage} {task.name} was done on node {report.node}, and what it made is not"
                f" in {session.plan.out}; --out has to be a folder that all nodes share, or an"
                " address such as s3://bucket/folder"
            )
        log.unlink(missing_ok=True)
        session.outcome.done += report.done

    def _homes(self, plan: Plan, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return where the tasks of each class noun would best be: on one node, if it has room.

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
        """Return the nodes that have room for a task. Raises UserError where none has."""
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
                f"none of the cluster's {len(alive)} nodes can ever hold a task ({asked});"
                " ask for less with --cpus-per-task, --memory-per-task or --jobs-per-device"
            )
        return fitting

    def _order(self, plan: Plan, options: RunOptions) -> Any:
        """Put what every task has to know where all nodes find it."""
        threads = max(1, int(self.needs.cpus))
        jobs = round(1 / self.needs.gpus) if self.needs.gpus else 1
        return self.ray.put(Order(uuid.uuid4().hex, plan, options, threads, jobs))

    def _remote(self, function: Callable[..., Any], **changes: Any) -> Any:
        """Return the function as a Ray task; its process stays for the next, with its networks."""
        options = self.needs.options() | {f"num_{key}": value for key, value in changes.items()}
        return self.ray.remote(max_calls=0, max_retries=RETRIES, **options)(function)

    def _queue(self) -> Any:
        """Return a queue that lives beside the driver, so that no other node takes it along."""
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
            raise UserError(f"the cluster could not do it: {_first_line(error)}") from error


@dataclass
class _Board:
    """What is under way on which worker, as far as the nodes have told."""

    progress: Progress
    runs: Sequence[Run]
    attempts: Counter[str] = field(default_factory=Counter)
    """How often each task was begun, by its key."""
    _workers: dict[str, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runs = list(dict.fromkeys(self.runs))

    def show(self, messages: Sequence[Message]) -> None:
        """Show the messages, but for the ends: a task ends when Ray has its report."""
        for worker, kind, content in messages:
            if kind == "begin":
                self._workers[worker] = content
                self.attempts[content.key] += 1
            if kind != "end":
                show_message((worker, kind, content), self.runs, self.progress)

    def end(self, task: Task, report: Report) -> None:
        """Show that a task has ended, wherever it was last."""
        if self._workers.get(report.worker) != task:
            self.progress.begin(task, 0, 0, report.worker)
        self._workers.pop(report.worker, None)
        self.progress.end(report.summary, report.worker)


@contextmanager
def connected(
    address: str, cpus: float = 1.0, jobs: int = 1, memory: str = "2GB", device: str = "auto"
) -> Iterator[Cluster]:
    """Connect to a Ray cluster while open: "auto", host:port, or "local" for one of this machine.

    A task gets `cpus` and `memory`, and 1 / `jobs` of a GPU where there are any and the device is
    not "cpu". Raises UserError where there is no cluster, or Ray is not installed.
    """
    size = parse_size(memory, "--memory-per-task")
    if re.fullmatch(r"[^:/]+:\d+", address):
        _refuse_unreachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError('--executor ray needs Ray: pip install "dbbench[ray]"') from None
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f'no Ray cluster at "{address}" ({_first_line(error)}); start one with "ray start'
            ' --head", or take --address local'
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


def _refuse_unreachable(address: str) -> None:
    """Raise UserError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UserError(
            f'no Ray cluster at "{address}" ({error.strerror or error}); start one with "ray start'
            ' --head", or take --address local'
        ) from None


def _noun(plan: Plan, task: Task) -> str:
    if task.class_noun is not None:
        return task.class_noun
    assert task.subject is not None
    return plan.subjects[task.subject].class_noun


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
