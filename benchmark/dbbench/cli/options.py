"""What several commands read from their options."""

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
    """What --executor chooses from."""

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
        help="Runs at once on a device (on each GPU, with --device cuda), each in its own process:"
        " small batches do not fill a GPU. On a cluster the share of a GPU that a task gets.",
    ),
]
Together = Annotated[
    int, typer.Option(min=1, help="Subjects that textual_inversion trains side by side.")
]
ExecutorName = Annotated[Where, typer.Option(help="Who works: this machine, or a Ray cluster.")]
Address = Annotated[
    str, typer.Option(help="The Ray cluster: auto, host:port, or local for a new one here.")
]
Cpus = Annotated[
    float, typer.Option("--cpus-per-task", min=0, help="CPUs for a task on the cluster.")
]
Memory = Annotated[
    str, typer.Option("--memory-per-task", help="Memory for a task on the cluster: 500MB, 6GB.")
]
LogJson = Annotated[bool, typer.Option("--log-json", help="Progress as JSON lines on stderr.")]
Retries = Annotated[
    int, typer.Option(min=0, help="How often what failed is tried again before it is reported.")
]
SaveEvery = Annotated[
    str,
    typer.Option(
        metavar="INTERVAL",
        help="How often a training saves its state, to resume from: 5min, 90s, 200steps.",
    ),
]
Tracker = Annotated[
    TrackerKind | None, typer.Option(help="Where training losses go, beside the report.")
]


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
    """Give who works and how, connected while open. Raises UserError."""
    from dbbench.generation.resume import SaveInterval
    from dbbench.running.executors.local import Local
    from dbbench.running.options import RunOptions

    options = RunOptions(
        device, retries, SaveInterval.parse(save_every), tracker, together, log_json
    )
    if together > 1 and (where is Where.ray or jobs > 1):
        raise UserError(
            "--together is for one process; leave it out with --executor ray and --jobs-per-device"
        )
    if where is Where.local:
        yield Local(jobs), options
        return
    from dbbench.running.executors.ray_driver import connected

    with connected(address, cpus, jobs, memory, device) as cluster:
        yield cluster, replace(options, device=cluster.device)


def names(text: str | None, option: str) -> list[str] | None:
    """Return the comma-separated names of an option, None where it was not given."""
    if text is None:
        return None
    given = [name for part in text.split(",") if (name := part.strip())]
    if not given:
        raise UserError(f'no name in {option} "{text}"')
    return given


def numbers(text: str | None) -> list[int] | None:
    """Return the comma-separated seeds, None where none were given."""
    given = names(text, "--seeds")
    if given is None:
        return None
    for seed in given:
        if not seed.isdecimal():
            raise UserError(f'"{seed}" is no seed; write whole numbers from 0 on: --seeds 0,1')
    return [int(seed) for seed in given]
