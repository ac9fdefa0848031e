"""`dbbench reproduce`: every table of the paper from one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dbbench.cli.options import (
    RESULTS,
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
from dbbench.cli.run import choose_dataset, choose_suite, say_stopped
from dbbench.errors import UserError
from dbbench.running.display.tracker import check_tracker

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
        typer.Option(help="all, objects, live, or names, for each suite. Default: its own."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers: 0,1. Default: each suite's.")] = None,
    out: Annotated[
        str, typer.Option(help="Folder with one folder for each suite, and the page of all.")
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
        bool, typer.Option("--dry-run", help="Show what all of it would take, and stop.")
    ] = False,
) -> None:
    """Run every experiment of the paper, then put all their tables and verdicts on one page.

    Suites share references, class images, trainings and encoded images where their settings are the
    same. What is complete is skipped, so that the same command continues after an interruption; a
    suite that fails does not stop the others.
    """
    from dbbench.data.dataset import select_subjects
    from dbbench.generation.resume import Interval
    from dbbench.reports import write_report
    from dbbench.running.reproduction import Conditions, Part, check_parts, print_costs
    from dbbench.running.reproduction import reproduce as do_all
    from dbbench.storage.remote import is_address
    from dbbench.suites.inheritance import PAPER
    from dbbench.suites.runs import plan_runs

    if is_address(out):
        raise UserError(
            "dbbench reproduce links what its suites share, which takes a folder: choose another"
            " --out, or call dbbench run --suite NAME --out ADDRESS for each suite"
        )
    check_tracker(tracker)
    interval, folder = Interval.parse(save_every), Path(out).expanduser()
    console = Console(stderr=log_json)
    with workers(executor, address, cpus, jobs, memory, device, together) as (work, place):
        parts = []
        for name in dict.fromkeys(names(suites, "--suites") or PAPER):
            suite = choose_suite(name, on, settings or [], place, data)
            dataset = choose_dataset(suite, data)
            chosen = [s.name for s in select_subjects(dataset, subjects or suite.subjects)]
            runs = plan_runs(suite, chosen, None, numbers(seeds))
            parts.append(Part(suite, folder / suite.name, dataset, runs))
        with console.status("reading the suites"):
            check_parts(parts, place)
        if dry_run:
            print_costs(parts, place, console)
            return
        conditions = Conditions(
            place, write_report, work, together, retries, interval, tracker, log_json
        )
        try:
            results = do_all(parts, conditions, console)
        except KeyboardInterrupt as interrupt:
            raise say_stopped(interrupt, console) from None
    console = Console()
    scored = [
        result.part.out for result in results if (result.part.out / "scores.parquet").is_file()
    ]
    missing = [
        f"{result.part.suite.name}: {result.problem or 'nothing of it could be scored'}"
        for result in results
        if result.part.out not in scored
    ]
    if scored:
        from dbbench.reports import print_findings, write_overview

        with console.status("writing the pages"):
            page = write_overview(scored, folder, missing=missing)
        print_findings(scored, console)
        console.print(f"report: {page}", soft_wrap=True, highlight=False)
    broken = [result for result in results if not result.complete]
    if broken:
        errors = Console(stderr=True)
        count = f"{len(broken)} of {len(results)} suites"
        errors.print(f"{count} are not complete; the same command tries again:", style="red")
        for result in broken:
            failed = [
                f"{f.task.stage} {f.task.name}: {f.reason} (see {f.log})" for f in result.failures
            ]
            for line in [result.problem] if result.problem else failed:
                errors.print(f"  {result.part.suite.name}: {line}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
