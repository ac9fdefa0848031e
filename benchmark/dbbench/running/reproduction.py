"""Reproduction: all suites of the paper in turn, each taking over what the others have made."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.files import write_text
from dbbench.generation.resume import Interval
from dbbench.planning.build import make_plan
from dbbench.planning.cost import count_images, estimate, estimate_bytes
from dbbench.running.display.progress import say_json
from dbbench.running.display.tracker import Kind
from dbbench.running.executors.local import Executor, Local
from dbbench.running.run import execute
from dbbench.running.scoring import Publish
from dbbench.running.session import Failure
from dbbench.running.sharing import without_shared
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite
from dbbench.units import duration, gigabytes


@dataclass(frozen=True)
class Part:
    """One suite of a reproduction, its folder, and what is run of it."""

    suite: Suite
    out: Path
    dataset: Dataset
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Conditions:
    """Who does the parts and how, alike for all of them; as `execute` takes them."""

    device: str
    publish: Publish
    executor: Executor = field(default_factory=Local)
    together: int = 1
    retries: int = 1
    interval: Interval = field(default_factory=Interval)
    tracker: Kind | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a part."""

    part: Part
    done: int
    failures: tuple[Failure, ...] = ()
    problem: str | None = None
    """Why the whole part stopped."""

    @property
    def complete(self) -> bool:
        """Whether nothing of it failed."""
        return self.problem is None and not self.failures


def check_parts(parts: Sequence[Part], device: str) -> None:
    """Raise UserError for what is wrong with any part, before the first one is begun."""
    for part in parts:
        plan = make_plan(part.suite, part.out, part.dataset, part.runs, device)
        plan.identities.resolve_methods(run.method for run in part.runs)


def reproduce(parts: Sequence[Part], conditions: Conditions, console: Console) -> list[Result]:
    """Do what is missing of each part; one that fails stops no other.

    KeyboardInterrupt passes through; what is complete by then stays.
    """

    def say(text: str, style: str, **facts: Any) -> None:
        if conditions.as_json:
            say_json(console, "suite", **facts)
        else:
            console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    results = []
    for number, part in enumerate(parts, start=1):
        name = part.suite.name
        title = f"{number} of {len(parts)}: {name}, {_runs(part)} into {part.out}"
        say(title, "bold", suite=name, number=number, suites=len(parts), runs=len(part.runs))
        result = _do(part, parts, conditions, console)
        if result.problem is not None:
            say(f"{name}: {result.problem}", "red", suite=name, problem=result.problem)
        elif not result.done and not result.failures:
            say("nothing to do", "dim", suite=name, tasks=0)
        results.append(result)
    return results


def _do(part: Part, parts: Sequence[Part], conditions: Conditions, console: Console) -> Result:
    try:
        outcome = execute(
            part.suite, part.out, part.dataset, part.runs,
            device=conditions.device, console=console, publish=conditions.publish,
            executor=conditions.executor,
            together=conditions.together, as_json=conditions.as_json,
            retries=conditions.retries, interval=conditions.interval, tracker=conditions.tracker,
            others=[other.out for other in parts if other.out != part.out],
        )  # fmt: skip
    except UserError as error:
        return Result(part, 0, problem=str(error))
    except Exception as error:
        log = part.out / "logs" / "suite.log"
        write_text(log, "".join(traceback.format_exception(error)))
        return Result(part, 0, problem=f"{type(error).__name__}: {error} (see {log})")
    return Result(part, outcome.done, tuple(outcome.failures))


def print_costs(parts: Sequence[Part], device: str, console: Console) -> None:
    """Print what each part would take when it takes over what the parts before it make."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("suite", footer="together", overflow="fold")
    seen: set[str] = set()
    rows, images, size, seconds = [], 0, 0, 0.0
    counts = dict.fromkeys(("runs", "prior", "train", "sample"), 0)
    unknown, measured = False, True
    for part in parts:
        plan = make_plan(part.suite, part.out, part.dataset, part.runs, device)
        plan.identities.resolve_methods(run.method for run in part.runs)
        tasks = without_shared(plan.tasks(part.runs), seen)
        cost = estimate(plan, tasks)
        own = {
            "runs": len(part.runs),
            **{stage: sum(t.stage == stage for t in tasks) for stage in list(counts)[1:]},
        }
        counts = {key: counts[key] + own[key] for key in counts}
        own_images, own_size = count_images(plan, tasks), estimate_bytes(plan, tasks)
        own_seconds = sum(cost.seconds.values())
        unknown, measured = unknown or cost.unknown, measured and cost.measured
        images, size, seconds = images + own_images, size + own_size, seconds + own_seconds
        rows.append(
            [
                part.suite.name,
                *map(str, own.values()),
                f"{own_images:,}",
                gigabytes(own_size),
                duration(own_seconds),
            ]
        )
    totals = [*map(str, counts.values()), f"{images:,}", gigabytes(size), duration(seconds)]
    headers = ["runs", "prior", "train", "sample", "images", "disk", "time"]
    for header, total in zip(headers, totals, strict=True):
        table.add_column(header, footer=total, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    notes = ["What several suites make alike (references, class images, trainings) counts once."]
    notes.append("Disk is without checkpoints of methods that were not trained here yet.")
    if not measured:
        notes.append("Time is estimated from the passes through the networks, not measured here.")
    if unknown:
        notes.append("Some tasks have no estimate of their time.")
    console.print(" ".join(notes), style="dim")


def _runs(part: Part) -> str:
    return f"{len(part.runs)} run{'' if len(part.runs) == 1 else 's'}"
