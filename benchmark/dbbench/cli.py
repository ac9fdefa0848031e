"""The command `dbbench`, top of the flow: each command parses, calls one function and prints."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dbbench.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import TaskID

    from dbbench.executor import Outcome
    from dbbench.subject import ImageSource
    from dbbench.suite import Run, Suite

RESULTS = Path("results")

app = typer.Typer(
    name="dbbench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Subject-driven generation measured by the DreamBooth protocol.",
    epilog="Start with: dbbench run --suite mini --subjects dog,teapot",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch and check the photographs.")
app.add_typer(data_app, name="data")


LISTS = ("subjects", "prompts", "suites", "methods", "metrics", "encoders")


def main() -> None:
    """Run the command line; a UserError is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        _say_error(f"error: {error}")
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        _say_error(
            f"dbbench failed in a way that it does not know: {type(error).__name__}, see above;"
            " what is complete is kept, and the same command goes on from there"
        )
        sys.exit(1)


def _say_error(line: str) -> None:
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dbbench import __version__

        print(f"dbbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\ndbbench run --suite mini --subjects dog,teapot\n\n"
    "dbbench run --subjects live --methods dreambooth --seeds 0,1\n\n"
    "dbbench run --suite paper --data photos --set train.steps=400 --dry-run"
)
def run(
    suite: Annotated[
        str | None,
        typer.Option(
            help="A suite's name or TOML file. Default: paper with a CUDA device, else mini."
        ),
    ] = None,
    subjects: Annotated[str, typer.Option(help="all, objects, live, or names: dog,teapot")] = "all",
    methods: Annotated[
        str | None, typer.Option(help="Names: dreambooth,textual_inversion. Default: the suite's.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Numbers: 0,1. Default: the suite's.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for everything that is made. Default: results/SUITE."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the photographs (see: dbbench data fetch).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the suite: train.steps=400. Repeatable."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and stop.")
    ] = False,
) -> None:
    """Train, sample, score and rank: methods x subjects x seeds.

    What is complete in the output folder is skipped, so that the same command goes on after an
    interruption, and more subjects, methods or seeds can be added later.
    """
    from dbbench.device import resolve_device
    from dbbench.executor import execute, make_plan
    from dbbench.overview import print_dry_run
    from dbbench.subject import select_subjects
    from dbbench.suite import plan_runs

    console = Console()
    place = resolve_device(device)
    chosen = _choose_suite(suite, settings or [], place, data)
    source = _choose_source(chosen, data)
    names = [subject.name for subject in select_subjects(subjects)]
    runs = plan_runs(chosen, names, _names(methods, "--methods"), _numbers(seeds))
    folder = out or RESULTS / chosen.name
    console.print(_headline(chosen, suite, runs, folder, place), soft_wrap=True, highlight=False)
    if dry_run:
        print_dry_run(make_plan(chosen, folder, source, runs, place), runs, console)
        return
    try:
        outcome = execute(chosen, folder, source, runs, device=place, console=console)
    except KeyboardInterrupt as interrupt:
        by_signal = bool(str(interrupt))
        console.print("stopped; what is complete is kept, and the same command goes on from here")
        raise typer.Exit(143 if by_signal else 130) from None
    _finish(outcome, folder, console)


@app.command(epilog="Example:  dbbench report results/mini")
def report(
    folder: Annotated[
        Path | None, typer.Argument(help="An output folder. Default: the latest in results.")
    ] = None,
) -> None:
    """Print the leaderboard of an output folder and write its HTML page anew."""
    from dbbench.reports import print_leaderboard, write_report

    console = Console()
    place = folder or _latest()
    page = write_report(place)
    print_leaderboard(place, console)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


@app.command(epilog="Example:  dbbench status results/mini")
def status(
    folder: Annotated[
        Path | None, typer.Argument(help="An output folder. Default: the latest in results.")
    ] = None,
) -> None:
    """Show which stages of which runs are done, missing, stale, damaged or failed."""
    from dbbench.overview import print_status

    print_status(folder or _latest(), Console())


@app.command("list", epilog="Example:  dbbench list subjects")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="|".join(LISTS), help="What to list.", autocompletion=lambda: list(LISTS)
        ),
    ],
) -> None:
    """Show what there is to choose from."""
    from dbbench import listing

    console = Console()
    match what:
        case "subjects":
            console.print(listing.subjects_table())
        case "prompts":
            console.print(listing.prompts_table(), markup=False)
        case "suites":
            console.print(listing.suites_table())
        case "methods" | "metrics" | "encoders":
            console.print(listing.plugins_table(what))
        case _:
            raise unknown("list", what, LISTS, "")


@data_app.command(epilog="Example:  dbbench data verify photos")
def verify(folder: Annotated[Path, typer.Argument(help="A copy of the photographs.")]) -> None:
    """Check a copy of the photographs byte for byte."""
    from dbbench.data import verify_data

    result = verify_data(folder)
    if not result.complete:
        raise UserError(result.summary)
    print(result.summary)


@data_app.command(
    epilog="Examples:\n\ndbbench data fetch --out photos\n\n"
    "dbbench data fetch --out photos --mirror dreambooth.zip"
)
def fetch(
    out: Annotated[Path, typer.Option(help="Where to put them.")] = Path("photos"),
    mirror: Annotated[
        str | None,
        typer.Option(help="A zip, a folder, or the address of either. Default: the hub."),
    ] = None,
) -> None:
    """Get the photographs; what is there and right is not fetched again."""
    from rich.progress import Progress

    from dbbench.data import fetch_data

    with Progress(console=Console(stderr=True), transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in shown:
                shown[what] = bars.add_task(what)
            bars.update(shown[what], completed=done, total=total or None)

        result = fetch_data(out, mirror=mirror, progress=advance)
    print(result.summary)


def _choose_suite(name: str | None, settings: list[str], device: str, data: Path | None) -> Suite:
    from dbbench.suite import load_suite, override, with_photos

    suite = override(load_suite(name or _default_suite(device)[0]), settings)
    return suite if data is None else with_photos(suite)


def _default_suite(device: str) -> tuple[str, str]:
    if device.startswith("cuda"):
        return "paper", "there is a CUDA device"
    return "mini", f"there is no CUDA device in use ({device})"


def _choose_source(suite: Suite, data: Path | None) -> ImageSource:
    if suite.source == "mini":
        from dbbench.mini.source import MiniSource

        return MiniSource(suite.backbone.resolution)
    if data is None:
        raise UserError(
            f'suite "{suite.name}" needs the photographs: get them with "dbbench data fetch --out'
            ' photos", then add --data photos; or take --suite mini, which needs none'
        )
    from dbbench.subject import PhotoFolder

    return PhotoFolder(data, suite.backbone.resolution)


def _headline(
    suite: Suite, asked: str | None, runs: Sequence[Run], folder: Path, device: str
) -> str:
    reason = "" if asked else f", because {_default_suite(device)[1]} (--suite chooses another)"
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return f"suite {suite.name}{reason}: {count} on {device} into {folder}"


def _finish(outcome: Outcome, folder: Path, console: Console) -> None:
    """Print what came of a run; exit with 1 where something failed."""
    if not outcome.done and not outcome.failures:
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


def _latest() -> Path:
    """Return the output folder below results/ that was written to last."""
    records = sorted(RESULTS.glob("*/suite.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"no results in {RESULTS}/; name a folder, or make some with: dbbench run")
    return records[-1].parent


def _names(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    names = [name for part in text.split(",") if (name := part.strip())]
    if not names:
        raise UserError(f'no name in {option} "{text}"')
    return names


def _numbers(text: str | None) -> list[int] | None:
    names = _names(text, "--seeds")
    if names is None:
        return None
    for name in names:
        if not name.isdecimal():
            raise UserError(f'"{name}" is no seed; write whole numbers from 0 on: --seeds 0,1')
    return [int(name) for name in names]
