"""`dbbench run`: train, sample, score and rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dbbench.cli.options import (
    Address,
    Cpus,
    Data,
    Device,
    ExecutorName,
    Jobs,
    LogJson,
    Memory,
    Retries,
    SaveEvery,
    Together,
    Tracker,
    Where,
    names,
    numbers,
    workers,
)
from dbbench.cli.status import print_dry_run
from dbbench.terminal import plain_console

if TYPE_CHECKING:
    from dbbench.planning.request import Request
    from dbbench.running.session import Outcome

app = typer.Typer()


@app.command(
    epilog="Examples:\n\ndbbench run --suite mini --subjects dog,teapot\n\n"
    "dbbench run --subjects live --methods dreambooth --seeds 0,1\n\n"
    "dbbench run --suite mini --subjects dog --methods path/to/file.py:MyMethod\n\n"
    "dbbench run --suite prior-ablation --on mini\n\n"
    "dbbench run --suite paper --data photos --executor ray --address auto\n\n"
    "dbbench run --suite paper --data photos --set train.steps=400 --dry-run"
)
def run(
    suite: Annotated[
        str | None,
        typer.Option(
            help="A suite's name or TOML file. Default: paper with a CUDA device, else mini."
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="The suite that an experiment extends: mini or paper. Default: as for --suite."
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(help="all, objects, live, or names: dog,teapot. Default: the suite's."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names: dreambooth,textual_inversion; or my.py:MyMethod. Default: the suite's."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers: 0,1. Default: the suite's.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Output folder, or an address such as s3://bucket/name. Default: results/SUITE."
        ),
    ] = None,
    data: Data = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the suite: train.steps=400. Repeatable."
        ),
    ] = None,
    jobs: Jobs = 1,
    together: Together = 1,
    executor: ExecutorName = Where.local,
    address: Address = "auto",
    cpus: Cpus = 1.0,
    memory: Memory = "2GB",
    log_json: LogJson = False,
    retries: Retries = 1,
    save_every: SaveEvery = "5min",
    tracker: Tracker = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, then exit.")
    ] = False,
) -> None:
    """Train, sample, score and rank: methods x subjects x seeds.

    Complete results in the output folder are skipped. So the same command continues after an
    interruption, and a later one can add subjects, methods or seeds. Several commands may work in
    one folder at the same time, also on several machines. Ctrl-C stops after the current step.
    """
    from dbbench.planning.build import make_plan
    from dbbench.planning.request import make_request
    from dbbench.reports import write_report
    from dbbench.running.run import execute
    from dbbench.suites.inheritance import bases, read_suite

    console = plain_console(stderr=log_json)
    with workers(
        executor, address, cpus, jobs, memory, device,
        retries, save_every, tracker, together, log_json,
    ) as (work, options):  # fmt: skip
        request = make_request(
            suite, on=on, device=options.device, settings=settings or (), subjects=subjects,
            methods=names(methods, "--methods"), seeds=numbers(seeds), data=data, out=out,
        )  # fmt: skip
        chosen = suite is not None and (on is not None or not bases(read_suite(suite)))
        if not log_json:
            headline = _headline(request, chosen, out or str(request.out), options.device)
            console.print(headline, soft_wrap=True, highlight=False)
        if dry_run:
            plan = make_plan(request, options.device)
            if settings:  # This imports torch, but checks the settings.
                plan.identities.resolve_methods(run.method for run in request.runs)
            print_dry_run(plan, request.runs, console)
            return
        try:
            outcome = execute(
                request, options=options, console=console, publish=write_report, executor=work
            )
        except KeyboardInterrupt as interrupt:
            raise say_stopped(interrupt, console) from None
    _finish(outcome, request.out, plain_console())


def say_stopped(interrupt: KeyboardInterrupt, console: Console) -> typer.Exit:
    """Print that the run was stopped; return the exit with the code of its signal."""
    from dbbench.interrupts import Stopped

    console.print("stopped; finished work is kept: rerun the same command to continue")
    return typer.Exit(128 + (interrupt.number if isinstance(interrupt, Stopped) else 2))


def _headline(request: Request, chosen: bool, folder: str, device: str) -> str:
    from dbbench.suites.suite import default_suite

    reason = "" if chosen else f", because {default_suite(device)[1]} (to choose: --suite, --on)"
    count = f"{len(request.runs)} run{'s' if len(request.runs) != 1 else ''}"
    return f"suite {request.suite.name}{reason}: {count} on {device} into {folder}"


def _finish(outcome: Outcome, folder: Path, console: Console) -> None:
    """Print the leaderboard and the failures; exit with 1 if there are any."""
    if not outcome.done and not outcome.others and not outcome.failures:
        line = f"nothing to do: {folder} is complete (dbbench report {folder} shows it)"
        console.print(line, soft_wrap=True)
        return
    if (folder / "scores.parquet").is_file():
        from dbbench.reports import print_leaderboard

        print_leaderboard(folder, console)
        page = folder / "report" / "index.html"
        console.print(f"report: {page}", soft_wrap=True, highlight=False)
    if outcome.failures:
        errors = plain_console(stderr=True)
        errors.print(
            f"{len(outcome.failures)} failed; rerun the same command to repeat them:", style="red"
        )
        for failure in outcome.failures:
            errors.print(f"  {failure}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
