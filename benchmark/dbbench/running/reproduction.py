"""Reproduction: run all suites of the paper; they share artifacts."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from dbbench.errors import UserError
from dbbench.files import write_text
from dbbench.planning.build import make_plan
from dbbench.planning.cost import Cost, count_images, estimate, estimate_bytes
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.running.display.progress import print_json
from dbbench.running.executors.local import Executor
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.running.scoring import Publish
from dbbench.running.session import Failure
from dbbench.running.sharing import without_shared


@dataclass(frozen=True)
class Result:
    """The result of one suite."""

    request: Request
    done: int
    failures: tuple[Failure, ...] = ()
    problem: str | None = None
    """Why the whole suite stopped."""

    @property
    def complete(self) -> bool:
        """Whether neither the suite nor any of its tasks failed."""
        return self.problem is None and not self.failures


@dataclass(frozen=True)
class Costs:
    """The cost of one suite, without the artifacts that it shares with earlier suites."""

    suite: str
    counts: Mapping[str, int]
    """Numbers of runs, of tasks by stage, of images and of bytes."""
    time: Cost


def reproduce(
    requests: Sequence[Request],
    *,
    options: RunOptions,
    console: Console,
    publish: Publish,
    executor: Executor | None = None,
) -> list[Result]:
    """Execute the requests one by one; a request that fails stops no other.

    The arguments are those of `execute`. KeyboardInterrupt is not caught; complete artifacts are
    kept.
    """

    def say(text: str, style: str, **facts: Any) -> None:
        if options.json:
            print_json(console, "suite", **facts)
        else:
            console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    results = []
    for number, request in enumerate(requests, start=1):
        name, runs = request.suite.name, len(request.runs)
        count = f"{runs} run{'' if runs == 1 else 's'}"
        title = f"{number} of {len(requests)}: {name}, {count} into {request.out}"
        say(title, "bold", suite=name, number=number, suites=len(requests), runs=runs)
        others = [other.out for other in requests if other.out != request.out]
        try:
            outcome = execute(
                request, options=options, console=console, publish=publish, executor=executor,
                others=others,
            )  # fmt: skip
            result = Result(request, outcome.done, tuple(outcome.failures))
        except UserError as error:
            result = Result(request, 0, problem=str(error))
        except Exception as error:
            log = request.out / "logs" / "suite.log"
            write_text(log, "".join(traceback.format_exception(error)))
            result = Result(request, 0, problem=f"{type(error).__name__}: {error} (see {log})")
        if result.problem is not None:
            say(f"{name}: {result.problem}", "red", suite=name, problem=result.problem)
        elif not result.done and not result.failures:
            say("nothing to do", "dim", suite=name, tasks=0)
        results.append(result)
    return results


def expected_costs(requests: Sequence[Request], device: str) -> list[Costs]:
    """Return the cost of each request; a shared artifact counts for the first of them only."""
    seen: set[str] = set()
    found = []
    for request in requests:
        plan = checked_plan(request, device)
        tasks = without_shared(plan.tasks(request.runs), seen)
        counts = {
            "runs": len(request.runs),
            **{name: sum(t.stage == name for t in tasks) for name in ("prior", "train", "sample")},
            "images": count_images(plan, tasks),
            "bytes": estimate_bytes(plan, tasks),
        }
        found.append(Costs(request.suite.name, counts, estimate(plan, tasks)))
    return found


def checked_plan(request: Request, device: str) -> Plan:
    """Return the plan of a request. Raises UserError if its settings or names are invalid."""
    plan = make_plan(request, device)
    plan.identities.resolve_methods(run.method for run in request.runs)
    return plan
