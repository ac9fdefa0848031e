"""Compares a run on a cluster that loses a node with a run on this machine; measures overhead.

    python benchmark/measurements/scale/nodes.py \\
        --out benchmark/measurements/results/scale-nodes.json

Runs mini with short training, first in this process, then on a local cluster of three nodes. One
node is killed when half of the tasks are done. All files are compared. Then the finished tasks are
given to the cluster once more: they only find that they are done, which measures the overhead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as Nodes
from rich.console import Console

from dbbench.mini.source import MiniWorld
from dbbench.planning.build import make_plan
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.planning.task import Task
from dbbench.reports import write_report
from dbbench.running.display.progress import PlainProgress
from dbbench.running.executors.local import Executor
from dbbench.running.executors.ray_driver import connected
from dbbench.running.models import Models
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.running.session import Session
from dbbench.storage.events import EventLog
from dbbench.storage.leases import Leases
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite, load_suite, override

CONSOLE = Console(stderr=True, width=160)


def main() -> None:
    """Measure, and write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=8, help="how many of the 30")
    parser.add_argument("--steps", type=int, default=4, help="of each training")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder of the two runs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    os.environ["DBBENCH_CACHE"] = str(folder / "cache")
    settings = [
        f"train.steps={options.steps}",
        "sample.images_per_prompt=1",
        "sample.steps=2",
        "prior.count=4",
        "prior.sampler.steps=2",
    ]
    suite = override(load_suite("mini"), settings)
    names = [subject.name for subject in MiniWorld().subjects][: options.subjects]
    runs = plan_runs(suite, names, None, None)
    document: dict[str, Any] = {"subjects": len(names), "runs": len(runs), "settings": settings}

    begun = time.monotonic()
    _run(suite, folder / "here", runs, None)
    document["seconds_here"] = round(time.monotonic() - begun, 1)

    os.environ["DBBENCH_CACHE"] = str(folder / "cache-there")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # For a busy machine.
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    workers = [nodes.add_node(num_cpus=1, memory=3 * 10**9) for _ in range(options.nodes)]
    try:
        with connected(nodes.address) as cluster:
            there = folder / "there"
            half = _count(folder / "here") // 2
            begun = time.monotonic()
            killer = _when(
                lambda: _count(there) >= half,
                lambda: nodes.remove_node(workers[-1], allow_graceful=False),
            )
            _run(suite, there, runs, cluster)
            killer.join()
            document["seconds_there"] = round(time.monotonic() - begun, 1)
            document["nodes_alive"] = sum(n["Alive"] for n in ray.nodes()) - 1
            events = [e for e in EventLog(there).read() if "attempts" in e]
            document["begun_again"] = [
                f"{e['stage']} {e['name']}" for e in events if e["attempts"] > 1
            ]
            document["tasks_by_node"] = {
                node: sum(e["node"] == node for e in events) for node in {e["node"] for e in events}
            }
            document["identical"] = _contents(folder / "here") == _contents(there)
            document["files_compared"] = len(_contents(there))
            document["overhead"] = _overhead(suite, there, runs, cluster)
    finally:
        nodes.shutdown()
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def _run(suite: Suite, out: Path, runs: tuple[Run, ...], executor: Executor | None) -> None:
    outcome = execute(
        Request(suite, out, MiniWorld(), runs),
        options=RunOptions("cpu"),
        console=CONSOLE,
        publish=write_report,
        executor=executor,
    )
    assert not outcome.failures, outcome.failures


def _when(holds: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        while not holds():
            time.sleep(0.2)
        CONSOLE.print("killing a node", style="bold")
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def _overhead(suite: Suite, out: Path, runs: tuple[Run, ...], cluster: Any) -> dict[str, Any]:
    """Give all finished tasks to the cluster again; return the seconds per task."""
    plan = make_plan(Request(suite, out, MiniWorld(), runs), "cpu")
    plan.identities.resolve_methods(suite.methods)
    tasks = _done_tasks(plan, runs)
    session = Session(plan, Models(plan, "cpu"), RunOptions("cpu"), Leases(out))
    cluster.work(session, tasks, PlainProgress(CONSOLE, tasks))  # Warms up the processes.
    begun = time.monotonic()
    cluster.work(session, tasks, PlainProgress(CONSOLE, tasks))
    seconds = time.monotonic() - begun
    return {
        "tasks": len(tasks),
        "seconds": round(seconds, 3),
        "each": round(seconds / len(tasks), 4),
    }


def _done_tasks(plan: Plan, runs: tuple[Run, ...]) -> list[Task]:
    tasks: list[Task] = []
    for run in runs:
        trained, samples = ("", plan.checkpoint(run)), ("", plan.samples(run))
        encoded = tuple((role, plan.features(run, role)) for role in plan.roles)
        before: tuple[str, ...] = ()
        for stage, made in (("train", (trained,)), ("sample", (samples,)), ("encode", encoded)):
            task = Task(stage, str(run), made, run, run.subject, needs=before)  # type: ignore[arg-type]
            before = (task.key,)
            tasks.append(task)
    return tasks


def _count(out: Path) -> int:
    return sum(e.get("status") == "done" for e in EventLog(out).read())


def _contents(out: Path) -> dict[str, str]:
    """Return the hash of every file, except those with dates and durations."""
    wanted = ("references/**/*", "prior/**/*", "runs/**/*", "features/**/*", "leaderboard*.csv")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in (*wanted, "scores.parquet")
        for path in sorted(out.glob(pattern))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
