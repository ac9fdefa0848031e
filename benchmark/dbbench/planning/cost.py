"""Cost: the time and disk space of tasks, from measured rates or from operation counts.

`dbbench run --dry-run` prints it, so nothing here imports torch.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.storage.disk import folder_size
from dbbench.storage.events import EventLog
from dbbench.storage.run_folder import checkpoint_folder, runs_in
from dbbench.units import duration

# Backbones of the shipped suites, by their path there: pixels along a side, and floating-point
# operations of one pass of the denoiser for one image (a multiplication and an addition are two).
# Counted by benchmark/measurements/speed/throughput.py --count; others are estimated once measured.
PASS: Mapping[str, tuple[int, float]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (512, 0.803e12),
    "stabilityai/stable-diffusion-2-1": (768, 2.149e12),
    "stabilityai/stable-diffusion-xl-base-1.0": (1024, 6.761e12),
    "stabilityai/stable-diffusion-3-medium-diffusers": (1024, 8.904e12),
    "mini": (64, 0.3e9),
}
# Assumed operations per second without a measurement: a large GPU in bfloat16, two CPU cores in
# float32.
ACHIEVED = {"cuda": 250e12, "cpu": 40e9}
BACKWARD = 2  # A backward pass costs as much as two forward passes.
STEPS = 1000  # Assumed if a method has no setting "steps".


@dataclass(frozen=True)
class Cost:
    """Seconds per stage; `measured` if all rates were measured in this folder."""

    seconds: Mapping[str, float]
    measured: bool
    unknown: bool
    """Whether some task has no estimate."""

    def describe(self, device: str) -> str:
        """Return a line for the terminal; `device` as in `resolve_device`."""
        if not self.seconds:
            return "no estimate of the time: this backbone was not measured yet"
        parts = ", ".join(f"{name} {duration(value)}" for name, value in self.seconds.items())
        hours = sum(self.seconds.values()) / 3600
        total = f"{hours:.1f} GPU hours" if device.startswith("cuda") else duration(hours * 3600)
        source = "from rates measured in this folder"
        if not self.measured:
            rate = _achieved(device) / 1e9
            source = f"estimated at {rate:,.0f} GFLOP/s, not measured here"
        rest = "; some tasks have no estimate" if self.unknown else ""
        return f"time: about {total} ({parts}; {source}{rest})"


def estimate(plan: Plan, tasks: Sequence[Task]) -> Cost:
    """Return the cost of these tasks on the plan's device, without encoding."""
    rates = _measured(plan)
    seconds: defaultdict[str, float] = defaultdict(float)
    measured, unknown = True, False
    operations, achieved = _operations(plan), _achieved(plan.identities.device)
    for task in tasks:
        if task.stage not in ("prior", "train", "sample"):
            continue
        count, passes = _work(plan, task)
        if task.kind in rates:
            seconds[task.stage] += count * rates[task.kind]
        elif operations is not None:
            seconds[task.stage] += count * passes * operations / achieved
            measured = False
        else:
            unknown = True
    return Cost(dict(seconds), measured, unknown)


def _work(plan: Plan, task: Task) -> tuple[int, float]:
    """Return a task's number of steps or images, and the network passes of each."""
    suite = plan.suite
    if task.stage == "train":
        assert task.run is not None
        method = task.run.method
        images = int(_setting(plan, method, "batch_size", 1))
        if _setting(plan, method, "prior_weight", 0):
            images *= 2
        return int(_setting(plan, method, "steps", STEPS)), images * (1 + BACKWARD)
    sampler = suite.prior.sampler if task.stage == "prior" else suite.sample
    count = suite.prior.count if task.run is None else len(plan.jobs(task.run))
    return count, sampler.steps * (2 if sampler.guidance > 1 else 1)


def _setting(plan: Plan, method: str, key: str, default: float) -> Any:
    facts = plan.identities.methods.get(method)
    known = plan.suite.row(method).method_settings([key]) if facts is None else facts.settings
    return known.get(key, default)


def _achieved(device: str) -> float:
    """Return the assumed operations per second of a device."""
    return ACHIEVED.get(device.partition(":")[0], ACHIEVED["cpu"])


def _operations(plan: Plan) -> float | None:
    """Return the operations of one pass at the suite's resolution; None if unknown."""
    backbone = plan.suite.backbone
    if backbone.path not in PASS:
        return None
    side, operations = PASS[backbone.path]
    return operations * (backbone.resolution / side) ** 2


def _measured(plan: Plan) -> dict[str, float]:
    """Return the median seconds per step or image for each kind of task done in this folder."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for event in EventLog(plan.out).read():
        count = event.get("steps") or event.get("images")
        if event.get("status") == "done" and count:
            method = event.get("run", {}).get("method")
            kind = f"{event['stage']} {method}" if method else event["stage"]
            found[kind].append(event["seconds"] / count)
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}


def estimate_bytes(plan: Plan, tasks: Iterable[Task]) -> int:
    """Return an estimate of the bytes that these tasks will write.

    An image counts as 60% of its uncompressed size. A checkpoint counts as the largest of its
    method in this folder, or as 0 if there is none.
    """
    tasks = tuple(tasks)
    image = int(plan.suite.backbone.resolution**2 * 3 * 0.6) + 512
    sizes = {run.method: 0 for task in tasks if (run := task.run) is not None}
    for run in runs_in(plan.out):
        if run.method in sizes:
            size = folder_size(plan.out / checkpoint_folder(run))
            sizes[run.method] = max(size, sizes[run.method])
    total, checkpoints = 0, [0]
    for task in tasks:
        if task.stage == "references":
            total += 6 * image
        elif task.stage == "prior":
            total += plan.suite.prior.count * image
        elif task.run is not None and task.stage == "sample":
            total += len(plan.jobs(task.run)) * image
        elif task.run is not None and task.stage == "train":
            checkpoints.append(sizes[task.run.method])
    return total + (sum if plan.suite.keep_checkpoints else max)(checkpoints)


def count_images(plan: Plan, tasks: Iterable[Task]) -> int:
    """Return how many images these tasks will sample for their runs."""
    return sum(len(plan.jobs(t.run)) for t in tasks if t.stage == "sample" and t.run)
