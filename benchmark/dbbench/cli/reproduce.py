"""`dbbench reproduce`: every table of the paper from one command."""

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
from dbbench.cli.run import say_stopped
from dbbench.errors import UserError
from dbbench.storage.disk import RESULTS
from dbbench.terminal import plain_console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbbench.running.reproduction import Costs

app = typer.Typer()


@app.command(
    epilog="Examples:\n\ndbbench reproduce --on mini\n\n"
    "dbbench reproduce --on paper --data photos --dry-run\n\n"
    "dbbench reproduce --on paper --data photos --executor ray --address auto --out SHARED\n\n"
    "dbbench reproduce --suites table1,prior-ablation --subjects dog,teapot --out results/two"
)
def reproduce(
    on: Annotated[
        str | None,
        typer.Option(help="mini or paper. Default: paper with a CUDA device, else mini."),
    ] = None,
    suites: Annotated[
        str | None,
        typer.Option(help="Experiments by name: table1,steps. Default: all of the paper's."),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(help="all, objects, live, or names. Default: each suite's."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers: 0,1. Default: each suite's.")] = None,
    out: Annotated[
        str, typer.Option(help="Output folder: one folder per suite, and a page for all.")
    ] = str(RESULTS),
    data: Data = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change every suite: train.steps=400. Repeatable."
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
        bool,
        typer.Option("--dry-run", help="Show the time and disk space it would take, then exit."),
    ] = False,
) -> None:
    """Run every experiment of the paper, then write all tables and verdicts to one page.

    Suites with the same settings share references, class images, trainings and encoded images.
    Complete results are skipped, so the same command continues after an interruption. A suite that
    fails does not stop the others.
    """
    from dbbench.bars import shown
    from dbbench.planning.request import make_request
    from dbbench.reports import write_report
    from dbbench.running.reproduction import checked_plan, expected_costs
    from dbbench.running.reproduction import reproduce as do_all
    from dbbench.storage.remote import is_address
    from dbbench.storage.run_folder import SCORES
    from dbbench.suites.inheritance import PAPER

    if is_address(out):
        raise UserError(
            "dbbench reproduce links files between its suites, which needs a local folder: choose"
            " another --out, or call dbbench run --suite NAME --out ADDRESS for each suite"
        )
    folder = Path(out).expanduser()
    console = plain_console(stderr=log_json)
    with workers(
        executor, address, cpus, jobs, memory, device,
        retries, save_every, tracker, together, log_json,
    ) as (work, options):  # fmt: skip
        requests = [
            make_request(
                name, on=on, device=options.device, settings=settings or (), subjects=subjects,
                seeds=numbers(seeds), data=data, results=folder,
            )
            for name in dict.fromkeys(names(suites, "--suites") or PAPER)
        ]  # fmt: skip
        with shown("reading the suites"):
            for request in requests:
                checked_plan(request, options.device)
        if dry_run:
            _print_costs(expected_costs(requests, options.device), console)
            return
        try:
            results = do_all(
                requests, options=options, console=console, publish=write_report, executor=work
            )
        except KeyboardInterrupt as interrupt:
            raise say_stopped(interrupt, console) from None
    console = plain_console()
    folders = [result.request.out for result in results]
    scored = [out for out in folders if (out / SCORES).is_file()]
    missing = [
        f"{result.request.suite.name}: {result.problem or 'it has no scores'}"
        for result in results
        if result.request.out not in scored
    ]
    if scored:
        from dbbench.reports import print_findings, write_overview

        with shown("writing the pages"):
            page = write_overview(scored, folder, missing=missing)
        print_findings(scored, console)
        console.print(f"report: {page}", soft_wrap=True, highlight=False)
    broken = [result for result in results if not result.complete]
    if broken:
        errors = plain_console(stderr=True)
        count = f"{len(broken)} of {len(results)} suites"
        errors.print(
            f"{count} are not complete; rerun the same command to repeat them:", style="red"
        )
        for result in broken:
            for line in [result.problem] if result.problem else result.failures:
                errors.print(f"  {result.request.suite.name}: {line}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _print_costs(costs: Sequence[Costs], console: Console) -> None:
    """Print a table with a row for each suite, and the total."""
    from dbbench.reports.formats.terminal import print_table
    from dbbench.units import duration, gigabytes

    def cells(name: str, counts: Mapping[str, int], seconds: float) -> list[str]:
        *numbers, size = counts.values()
        return [name, *(f"{number:,}" for number in numbers), gigabytes(size), duration(seconds)]

    seconds = [sum(each.time.seconds.values()) for each in costs]
    rows = [cells(c.suite, c.counts, s) for c, s in zip(costs, seconds, strict=True)]
    together = {key: sum(each.counts[key] for each in costs) for key in costs[0].counts}
    rows.append(cells("total", together, sum(seconds)))
    header = ("suite", "runs", "prior", "train", "sample", "images", "disk", "time")
    print_table(console, "what is still to do", header, rows)
    notes = ["Shared references, class images and trainings are counted once."]
    notes.append("Disk space does not include checkpoints of methods not trained here yet.")
    if not all(each.time.measured for each in costs):
        notes.append("Time is estimated from operation counts of the networks, not measured here.")
    if any(each.time.unknown for each in costs):
        notes.append("Some tasks have no estimate of their time.")
    console.print(" ".join(notes), style="dim")
