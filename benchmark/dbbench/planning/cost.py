"""Cost: the time and disk space of tasks, from measured rates or from operation counts.

`dbbench run --dry-run` prints it, so nothing here imports torch.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dbbench.planning.known import KNOWN, training_of
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.storage.disk import folder_size
from dbbench.storage.events import EventLog
from dbbench.storage.run_folder import checkpoint_folder, runs_in
from dbbench.units import duration

# Floating-point operations that a device does in a second, assumed where nothing was measured: a
# large GPU in bfloat16, two CPU cores in float32.
ACHIEVED = {"cuda": 250e12, "cpu": 40e9}
# Seconds in which Python hands one kernel to a GPU. A pass of few images takes as long as handing
# out its kernels: about 10 steps a second in suite paper, where the arithmetic alone would be 52.
CALL = 20e-6
STEP_CALLS = 3.1  # kernels of a training step, in those of one pass forward


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
    for task in tasks:
        if task.stage not in ("prior", "train", "sample"):
            continue
        work = _work(plan, task)
        if task.kind in rates:
            seconds[task.stage] += work.count * rates[task.kind]
        elif (operations := _operations(plan)) is not None:
            device = plan.identities.device
            each = work.passes * operations / _achieved(device)
            if device.startswith("cuda"):
                each = max(each, work.calls * KNOWN[plan.suite.backbone.path].calls * CALL)
            seconds[task.stage] += work.count * each
            measured = False
        else:
            unknown = True
    return Cost(dict(seconds), measured, unknown)


@dataclass(frozen=True)
class _Work:
    """What a task is made of."""

    count: int
    """Steps or images."""
    passes: float
    """Passes of the denoiser for one image, that each of them takes."""
    calls: float
    """Passes that each of them hands to the device, with all images of a batch in one."""


def _work(plan: Plan, task: Task) -> _Work:
    suite = plan.suite
    if task.stage == "train":
        assert task.run is not None
        trained = training_of(plan, task.run)
        return _Work(trained.steps, trained.images * trained.passes, STEP_CALLS)
    sampler = suite.prior.sampler if task.stage == "prior" else suite.sample
    count = suite.prior.count if task.run is None else len(plan.jobs(task.run))
    passes = sampler.steps * (2 if sampler.guidance > 1 else 1)
    return _Work(count, passes, sampler.steps / sampler.batch_size)


def _achieved(device: str) -> float:
    """Return the assumed operations per second of a device."""
    return ACHIEVED.get(device.partition(":")[0], ACHIEVED["cpu"])


def _operations(plan: Plan) -> float | None:
    """Return the operations of one pass at the suite's resolution; None if unknown."""
    backbone = plan.suite.backbone
    if backbone.path not in KNOWN:
        return None
    known = KNOWN[backbone.path]
    return known.operations * (backbone.resolution / known.side) ** 2


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

    Images count as 60% of their pixels; a checkpoint counts as much as one that the same method
    has already written here, or as the weights that it trains, or as nothing where neither is
    known.
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
            written = sizes[task.run.method]
            copies = 1 + len(plan.row(task.run).snapshots)
            checkpoints.append(written or copies * training_of(plan, task.run).bytes)
    return total + (sum if plan.suite.keep_checkpoints else max)(checkpoints)


def count_images(plan: Plan, tasks: Iterable[Task]) -> int:
    """Return how many images these tasks will sample for their runs."""
    return sum(len(plan.jobs(t.run)) for t in tasks if t.stage == "sample" and t.run)
