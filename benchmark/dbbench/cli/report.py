"""`dbbench report`, `compare` and `check`: show finished runs and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dbbench.errors import UserError
from dbbench.storage.disk import RESULTS, latest
from dbbench.terminal import plain_console

app = typer.Typer()


@app.command(
    epilog="Examples:\n\ndbbench report results/mini\n\n"
    "dbbench report results/table1-mini results/prior-ablation-mini --out results/all\n\n"
    "dbbench report results/paper --price 2.50 --study results/study-subject"
)
def report(
    folders: Annotated[
        list[str] | None,
        typer.Argument(help="Output folders or their addresses. Default: the latest in results."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the common page of several folders. Default: results."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Price of an hour of the device, for the provenance.")
    ] = None,
    study: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="A user study's folder or answers, for Table 2. Repeatable. Default: answered"
            " studies of these folders, beside them.",
        ),
    ] = None,
) -> None:
    """Print leaderboards, then write their pages, tables and plots.

    Runs are ranked together only if images, prompts, encoders and metrics are the same. The
    results of an address are downloaded, and their page is written to this machine.
    """
    from dbbench.bars import shown
    from dbbench.reports import print_leaderboard, write_overview, write_report
    from dbbench.running.scoring import open_scored

    console = plain_console()
    asked = folders or [str(latest())]
    places = list(dict.fromkeys(open_scored(folder, write_report) for folder in asked))
    for place in places:
        if len(places) > 1:
            console.print(Text(str(place), style="bold"), soft_wrap=True)
        print_leaderboard(place, console)
    with shown("writing the page"):
        if len(places) == 1:
            page = write_report(places[0], price=price, studies=study)
        else:
            page = write_overview(places, out or RESULTS, price=price, studies=study)
    console.print(f"report: {page}", soft_wrap=True, highlight=False)


@app.command(epilog="Example:  dbbench compare results/before results/after --out results/moved")
def compare(
    first: Annotated[str, typer.Argument(help="An output folder or its address.")],
    second: Annotated[str, typer.Argument(help="Another of the same suite: second minus first.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a page with the images of both runs side by side."),
    ] = None,
) -> None:
    """Compare the scores of two runs: overall, by category, and the most changed subjects."""
    from dbbench.bars import shown
    from dbbench.reports import write_report
    from dbbench.reports.compare import compare_runs, print_comparison, write_comparison
    from dbbench.running.scoring import open_scored

    console = plain_console()
    places = [open_scored(folder, write_report) for folder in (first, second)]
    with shown("comparing"):
        comparisons = compare_runs(*places)
    for comparison in comparisons:
        print_comparison(comparison, console)
    if out is not None:
        page = write_comparison(comparisons, out)
        console.print(f"page: {page}", soft_wrap=True, highlight=False)


@app.command(
    epilog="Examples:\n\ndbbench check results/gate-mini --against baseline.json --update\n\n"
    "dbbench check results/gate-mini --against baseline.json --junit gate.xml --summary gate.md"
)
def check(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="An output folder or its address.")],
    against: Annotated[Path, typer.Option(help="The baseline, a JSON file.")],
    tolerance: Annotated[
        Path | None,
        typer.Option(help="TOML file: the largest allowed loss per metric, such as dino = 0.01."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write a summary in Markdown.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline from this run, then exit.")
    ] = False,
) -> None:
    """Compare a run with a baseline; exit with 1 if a metric is significantly worse."""
    from dbbench.files import write_text
    from dbbench.reports import gate
    from dbbench.reports.gate import check as compare_with
    from dbbench.reports.gate import read_baseline, read_tolerance, write_baseline
    from dbbench.reports.results import load_results
    from dbbench.storage.remote import open_folder

    console = plain_console()
    results = load_results(open_folder(folder)[0])
    if missing := results.missing:
        raise UserError(f"{folder} is not finished ({missing}); call the same dbbench run again")
    if update:
        write_baseline(results, against)
        console.print(f"baseline: {against}", soft_wrap=True, highlight=False)
        return
    metrics = {metric.name: metric for metric in results.metrics}
    lines = compare_with(results, read_baseline(against), read_tolerance(tolerance, metrics))
    title = f"{results.suite.name} against {against.name}"
    gate.print_lines(lines, console, title=title, banner=results.banner)
    if junit is not None:
        write_text(junit, gate.junit(lines, suite=results.suite.name, banner=results.banner))
    if summary is not None:
        write_text(summary, gate.summary(lines, title=title, banner=results.banner))
    if any(line.regressed for line in lines):
        raise typer.Exit(1)
