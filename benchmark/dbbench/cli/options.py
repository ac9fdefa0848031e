"""Options that several commands share, and their parsing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dbbench.errors import UserError
from dbbench.running.display.tracker import TrackerKind

if TYPE_CHECKING:
    from dbbench.running.executors.local import Executor
    from dbbench.running.options import RunOptions


class Where(StrEnum):
    """The values of --executor."""

    local = "local"
    ray = "ray"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="A data set, or the photographs' folder. Default: the suite's."
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs-per-device",
        min=1,
        help="Parallel runs on each device, each in its own process; --device cuda is every GPU."
        " On a cluster, a task gets 1/N of a GPU.",
    ),
]
Together = Annotated[
    int, typer.Option(min=1, help="Number of subjects that textual_inversion trains together.")
]
ExecutorName = Annotated[Where, typer.Option(help="Run on this machine or on a Ray cluster.")]
Address = Annotated[
    str, typer.Option(help="The Ray cluster: auto, host:port, or local to start one here.")
]
Cpus = Annotated[
    float, typer.Option("--cpus-per-task", min=0, help="CPUs per task on the cluster.")
]
Memory = Annotated[
    str, typer.Option("--memory-per-task", help="Memory per task on the cluster: 500MB, 6GB.")
]
LogJson = Annotated[bool, typer.Option("--log-json", help="Progress as JSON lines on stderr.")]
Retries = Annotated[int, typer.Option(min=0, help="How often a failed task is repeated.")]
SaveEvery = Annotated[
    str,
    typer.Option(
        metavar="INTERVAL",
        help="How often a training saves its state for resuming: 5min, 90s, 200steps.",
    ),
]
Tracker = Annotated[TrackerKind | None, typer.Option(help="Also send training losses to it.")]


@contextmanager
def workers(
    where: Where,
    address: str,
    cpus: float,
    jobs: int,
    memory: str,
    device: str,
    retries: int,
    save_every: str,
    tracker: TrackerKind | None,
    together: int,
    log_json: bool,
) -> Iterator[tuple[Executor, RunOptions]]:
    """Yield the executor and the options; a cluster is connected while open. Raises UserError."""
    from dbbench.generation.resume import SaveInterval
    from dbbench.running.executors.local import Local
    from dbbench.running.options import RunOptions

    options = RunOptions(
        device, retries, SaveInterval.parse(save_every), tracker, together, log_json
    )
    if together > 1 and (where is Where.ray or jobs > 1):
        raise UserError(
            "--together needs one process; do not use it with --executor ray or --jobs-per-device"
        )
    if where is Where.local:
        yield Local(jobs), options
        return
    from dbbench.running.executors.ray_driver import connected

    with connected(address, cpus, jobs, memory, device) as cluster:
        yield cluster, replace(options, device=cluster.device)


def names(text: str | None, option: str) -> list[str] | None:
    """Return the comma-separated names of an option, or None if it was not given."""
    if text is None:
        return None
    given = [name for part in text.split(",") if (name := part.strip())]
    if not given:
        raise UserError(f'no name in {option} "{text}"')
    return given


def numbers(text: str | None) -> list[int] | None:
    """Return the comma-separated seeds, or None if none were given."""
    given = names(text, "--seeds")
    for seed in given or ():
        if not seed.isdecimal():
            raise UserError(f'"{seed}" is no seed; write whole numbers from 0 on: --seeds 0,1')
    return None if given is None else [int(seed) for seed in given]
