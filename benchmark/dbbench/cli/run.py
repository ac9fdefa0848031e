"""`dbbench run`, the main job, `dbbench status` and `dbbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    latest,
    names,
    numbers,
    open_folder,
    workers,
)
from dbbench.errors import UserError
from dbbench.running.display.tracker import check_tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbbench.data.dataset import Dataset
    from dbbench.running.session import Outcome
    from dbbench.suites.runs import Run
    from dbbench.suites.suite import Suite

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
            help="Folder, or address such as s3://bucket/name, for all that is made."
            " Default: results/SUITE."
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
        bool, typer.Option("--dry-run", help="Show what would be done, and stop.")
    ] = False,
) -> None:
    """Train, sample, score and rank: methods x subjects x seeds.

    What is complete in the output folder is skipped, so that the same command continues after an
    interruption, and more subjects, methods or seeds can be added later. Several such commands may
    work on one folder at once, from several machines too. Ctrl-C finishes the step in hand.
    """
    from dbbench.data.dataset import select_subjects
    from dbbench.generation.resume import Interval
    from dbbench.planning.build import make_plan
    from dbbench.planning.status import print_dry_run
    from dbbench.reports import write_report
    from dbbench.running.run import execute
    from dbbench.suites.runs import plan_runs

    check_tracker(tracker)
    interval = Interval.parse(save_every)
    console = Console(stderr=log_json)
    with workers(executor, address, cpus, jobs, memory, device, together) as (work, place):
        chosen = choose_suite(suite, on, settings or [], place, data)
        dataset = choose_dataset(chosen, data)
        chosen_subjects = [s.name for s in select_subjects(dataset, subjects or chosen.subjects)]
        chosen, chosen_methods = _choose_methods(chosen, names(methods, "--methods"))
        runs = plan_runs(chosen, chosen_subjects, chosen_methods, numbers(seeds))
        folder, remote = open_folder(out or str(RESULTS / chosen.name))
        asked = bool(on) or suite in {"mini", "paper"} or str(suite).endswith(".toml")
        if not log_json:
            headline = _headline(chosen, asked, runs, out or str(folder), place)
            console.print(headline, soft_wrap=True, highlight=False)
        if dry_run:
            plan = make_plan(chosen, folder, dataset, runs, place, remote)
            if settings:  # What was typed is checked, though it takes torch to do so.
                plan.identities.resolve_methods(dict.fromkeys(run.method for run in runs))
            print_dry_run(plan, runs, console)
            return
        try:
            outcome = execute(
                chosen, folder, dataset, runs,
                device=place, console=console, publish=write_report, executor=work,
                together=together, as_json=log_json, retries=retries, interval=interval,
                remote=remote, tracker=tracker,
            )  # fmt: skip
        except KeyboardInterrupt as interrupt:
            raise say_stopped(interrupt, console) from None
    _finish(outcome, folder, Console())


@app.command(epilog="Example:  dbbench status results/mini")
def status(
    folder: Annotated[
        str | None,
        typer.Argument(help="An output folder or its address. Default: the latest in results."),
    ] = None,
) -> None:
    """Show which stages of which runs are done, running, failed (and why), missing or stale."""
    from dbbench.planning.status import print_status

    path, remote = open_folder(folder or str(latest()))
    print_status(path, Console(), remote)


@app.command(epilog="Examples:\n\ndbbench verify results/mini\n\ndbbench verify && echo whole")
def verify(
    folder: Annotated[
        str | None,
        typer.Argument(help="An output folder or its address. Default: the latest in results."),
    ] = None,
) -> None:
    """Read every file and compare it with its hash; exit code 1 where one is damaged or stale.

    What is damaged is marked, and the next dbbench run makes it again and nothing else.
    """
    from dbbench.planning.verify import verify as verify_folder

    path, remote = open_folder(folder or str(latest()))
    if not verify_folder(path, Console(), remote):
        raise typer.Exit(1)


def choose_suite(
    name: str | None, on: str | None, settings: list[str], device: str, data: str | None
) -> Suite:
    """Return the suite of that name as the options change it; the device decides the defaults."""
    from dbbench import plugins
    from dbbench.suites.inheritance import bases, read_suite
    from dbbench.suites.suite import load_suite, on_dataset, override

    default, _ = _default_suite(device)
    name = name or default
    if on is None and default in bases(read_suite(name)):
        on = default
    suite = override(load_suite(name, on), settings)
    if data is None:
        return suite
    return on_dataset(suite, data if data in plugins.names("datasets") else "photos")


def say_stopped(interrupt: KeyboardInterrupt, console: Console) -> typer.Exit:
    """Print what an interruption means; return the exit code that shells expect."""
    from dbbench.interrupts import Stopped

    console.print("stopped; what is done so far is kept: rerun the same command to continue")
    return typer.Exit(128 + (interrupt.number if isinstance(interrupt, Stopped) else 2))


def _choose_methods(suite: Suite, given: list[str] | None) -> tuple[Suite, list[str] | None]:
    """Enter methods that are given as a file into the suite; return it, and all by name."""
    from dbbench.plugins import add_method_file, is_file_reference

    if given is None:
        return suite, None
    files = {add_method_file(text): text for text in given if is_file_reference(text)}
    by_text = {text: name for name, text in files.items()}
    places = {name: _absolute(text) for name, text in files.items()}
    chosen = suite.model_copy(update={"method_files": suite.method_files | places})
    return chosen, [by_text.get(text, text) for text in given]


def _absolute(reference: str) -> str:
    """Return "file.py:Class" as later calls from other folders find it."""
    path, _, name = reference.rpartition(":")
    return f"{Path(path).expanduser().resolve()}:{name}"


def _default_suite(device: str) -> tuple[str, str]:
    if device.startswith("cuda"):
        return "paper", "there is a CUDA device"
    return "mini", f"there is no CUDA device in use ({device})"


def choose_dataset(suite: Suite, data: str | None) -> Dataset:
    """Return the suite's data set. Raises UserError where the photographs' folder is needed."""
    from dbbench.data.dataset import load_dataset
    from dbbench.data.photographs import Photographs

    if suite.source != Photographs.name:
        return load_dataset(suite.source)
    if data is None:
        raise UserError(
            f'suite "{suite.name}" needs the photographs: get them with "dbbench data fetch --out'
            ' photos", then add --data photos; or take mini, which needs none (--suite mini, or'
            " --on mini for an experiment)"
        )
    return Photographs(Path(data))


def _headline(suite: Suite, asked: bool, runs: Sequence[Run], folder: str, device: str) -> str:
    reason = "" if asked else f", because {_default_suite(device)[1]} (--suite or --on chooses)"
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return f"suite {suite.name}{reason}: {count} on {device} into {folder}"


def _finish(outcome: Outcome, folder: Path, console: Console) -> None:
    """Print what came of a run; exit with 1 where something failed."""
    if not outcome.done and not outcome.others and not outcome.failures:
        console.print(f"nothing to do: {folder} is complete (dbbench report {folder} shows it)")
        return
    if (folder / "scores.parquet").is_file():
        from dbbench.reports import print_leaderboard

        print_leaderboard(folder, console)
        console.print(f"report: {folder / 'report' / 'index.html'}", highlight=False)
    if outcome.failures:
        errors = Console(stderr=True)
        errors.print(f"{len(outcome.failures)} failed; the same command tries again:", style="red")
        for failure in outcome.failures:
            line = f"  {failure.task.stage} {failure.task.name}: {failure.reason}"
            errors.print(f"{line} (see {failure.log})", markup=False, soft_wrap=True)
        raise typer.Exit(1)
