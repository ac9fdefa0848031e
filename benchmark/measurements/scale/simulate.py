"""Simulates the time on many GPUs, and finds the bottleneck, from measured stage times.

    python benchmark/measurements/scale/simulate.py results/mini --overhead 0.02 \\
        --out scale-simulated.json

Input: the mean seconds of each stage and method from a run's `events/`, and the driver's seconds
per task (nodes.py measures them). Each GPU is one process of the measured machine, with one task at
a time. A task starts when its dependencies are done and the driver has assigned it; the driver
assigns one task after the other. The first task of a process also loads the networks.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from dbbench.data.photographs import Photographs
from dbbench.storage.events import EventLog

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Times:
    """Seconds per task, by "stage method" or "stage"; `score` is per image."""

    tasks: dict[str, float]
    score: float
    overhead: float
    load: float


@dataclass(frozen=True)
class Job:
    """A task of the simulation."""

    kind: str
    seconds: float
    needs: tuple[int, ...]


def main() -> None:
    """Simulate, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="an output folder with its events")
    parser.add_argument("--overhead", type=float, required=True, help="driver seconds per task")
    parser.add_argument("--load", type=float, default=10.0, help="seconds to start a process")
    parser.add_argument("--methods", default="dreambooth,textual_inversion")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--images", type=int, default=100, help="images per run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    times = read_times(options.run, options.overhead, options.load)
    methods = options.methods.split(",")
    document = []
    for seeds in options.seeds:
        jobs = plan(times, methods, seeds)
        alone = sum(job.seconds for job in jobs) + times.load
        images = len(Photographs().subjects) * len(methods) * seeds * options.images
        for gpus in GPUS:
            row = simulate(jobs, gpus, times) | {"seeds": seeds, "gpus": gpus, "images": images}
            row["score_seconds"] = round(images * times.score, 1)
            total = row["stages_seconds"] + row["score_seconds"]
            row["seconds"] = round(total, 1)
            row["speedup"] = round((alone + row["score_seconds"]) / total, 1)
            row["limit"] = limit(row)
            document.append(row)
            print(
                f"{seeds:3} seeds {gpus:4} GPUs: {total:9.0f} s, {row['speedup']:6.1f} times as"
                f" fast as one; limited by {row['limit']}"
            )
    if options.out:
        what = {"times": times.__dict__, "run": str(options.run), "rows": document}
        options.out.write_text(json.dumps(what, indent=1) + "\n")


def read_times(run: Path, overhead: float, load: float) -> Times:
    """Return the mean seconds of each kind of task, and of scoring one image."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    score = 0.0
    for event in EventLog(run).read():
        if event.get("status") != "done":
            continue
        if event["stage"] == "score":
            score = event["seconds"] / max(event.get("images", 1), 1)
            continue
        method = f" {event['run']['method']}" if "run" in event else ""
        seconds[event["stage"] + method].append(event["seconds"])
    return Times({k: sum(v) / len(v) for k, v in seconds.items()}, score, overhead, load)


def plan(times: Times, methods: list[str], seeds: int) -> list[Job]:
    """Return the jobs of all 30 subjects in the order in which the driver assigns them."""
    jobs: list[Job] = []
    priors: dict[str, int] = {}

    def add(kind: str, *needs: int) -> int:
        found = times.tasks.get(kind, times.tasks.get(kind.split()[0], 0.0))
        jobs.append(Job(kind, found, needs))
        return len(jobs) - 1

    subjects = Photographs().subjects
    for _ in subjects:
        add("encode")
    for method in methods:
        for subject in subjects:
            for _ in range(seeds):
                needs: tuple[int, ...] = ()
                if method.startswith("dreambooth"):
                    if subject.class_noun not in priors:
                        priors[subject.class_noun] = add("prior")
                    needs = (priors[subject.class_noun],)
                trained = add(f"train {method}", *needs)
                add(f"encode {method}", add(f"sample {method}", trained))
    return jobs


def simulate(jobs: list[Job], gpus: int, times: Times) -> dict[str, float]:
    """Return the end of the last job, the longest chain, and the work of driver and GPUs."""
    warm: list[float] = []  # Times at which the GPUs with loaded networks are free.
    cold = gpus
    ends = [0.0] * len(jobs)
    chains = [0.0] * len(jobs)
    waiting: list[tuple[float, int]] = []
    children: defaultdict[int, list[int]] = defaultdict(list)
    missing = [len(job.needs) for job in jobs]
    for number, job in enumerate(jobs):
        for needed in job.needs:
            children[needed].append(number)
        if not job.needs:
            heapq.heappush(waiting, (times.overhead * (number + 1), number))
    while waiting:
        ready, number = heapq.heappop(waiting)
        # Like Ray: prefer an idle process with loaded networks, then a new one, else wait.
        if cold and not (warm and warm[0] <= ready):
            cold -= 1
            at, load = 0.0, times.load
        else:
            at, load = heapq.heappop(warm), 0.0
        ends[number] = max(ready, at) + load + jobs[number].seconds
        before = max((chains[needed] for needed in jobs[number].needs), default=times.load)
        chains[number] = before + jobs[number].seconds
        heapq.heappush(warm, ends[number])
        for child in children[number]:
            missing[child] -= 1
            if not missing[child]:
                since = max(ends[needed] for needed in jobs[child].needs)
                heapq.heappush(waiting, (max(since, times.overhead * (child + 1)), child))
    return {
        "stages_seconds": round(max(ends), 1),
        "chain_seconds": round(max(chains), 1),
        "driver_seconds": round(times.overhead * len(jobs), 1),
        "gpu_seconds": round(sum(job.seconds for job in jobs) / gpus, 1),
    }


def limit(row: dict[str, float]) -> str:
    """Return the part with the largest lower bound on the total time."""
    parts = {
        "the GPUs": row["gpu_seconds"],
        "one run's prior, train, sample, encode": row["chain_seconds"],
        "the driver, handing out tasks": row["driver_seconds"],
        "score and report on the driver": row["score_seconds"],
    }
    return max(parts, key=lambda name: parts[name])


if __name__ == "__main__":
    main()
