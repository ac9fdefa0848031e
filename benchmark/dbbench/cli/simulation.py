"""`dbbench study simulate` and `plan`: raters with known preferences, to test or plan a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from dbbench.cli.study import Folder, Url
from dbbench.errors import UserError
from dbbench.terminal import plain_console

app = typer.Typer()

Shares = Annotated[
    str,
    typer.Option(
        metavar="A,B,C",
        help="True preferences in percent of pairs: better method, worse method, neither.",
    ),
]
Error = Annotated[float, typer.Option(help="Rate of answers that differ from the true preference.")]


@app.command(
    epilog="Example:  dbbench study simulate results/study-subject --shares 68,22,10\n\n"
    "then:  dbbench study results results/study-subject --simulated"
)
def simulate(
    folder: Folder,
    shares: Shares = "68,22,10",
    error: Error = 0.1,
    careless: Annotated[float, typer.Option(help="Share of raters who answer at random.")] = 0.0,
    dropout: Annotated[float, typer.Option(help="Share of raters who stop before the end.")] = 0.0,
    order: Annotated[
        str | None, typer.Option(help="Methods, the best first. Default: alphabetical.")
    ] = None,
    seed: int = 0,
    database: Url = None,
) -> None:
    """Write answers of simulated raters, marked as simulated, into DIR/simulated.sqlite."""
    from dbbench.bars import shown
    from dbbench.cli.options import names
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.analysis.results import simulated_url
    from dbbench.study.analysis.simulate import Crowd, simulate_study
    from dbbench.study.answers.store import open_store

    crowd = Crowd(_shares(shares), error, careless, dropout)
    store = open_store(folder, database or simulated_url(folder))
    with shown("answering") as (_, advance):
        raters = simulate_study(
            store, crowd, order=names(order, "--order") or (), seed=seed, advance=advance
        )
    store.database.close()
    print(f"{raters} simulated raters; next: dbbench study results {folder} --simulated")


@app.command(epilog="Example:  dbbench study plan --shares 50,40,10 --pairs 200,400,800")
def plan(
    shares: Shares = "55,35,10",
    error: Error = 0.1,
    careless: Annotated[float, typer.Option(help="Share of raters who answer at random.")] = 0.0,
    pairs: Annotated[str, typer.Option(help="Numbers of pairs to try.")] = "100,200,400,600,1000",
    raters_per_pair: Annotated[int, typer.Option(min=1, max=9)] = 3,
    questions_per_rater: Annotated[int, typer.Option(min=1)] = 25,
    studies: Annotated[int, typer.Option(min=1, help="Simulated studies for each size.")] = 200,
    seed: int = 0,
) -> None:
    """Simulate studies of several sizes: how many raters are needed to distinguish two methods?"""
    from dbbench.bars import shown
    from dbbench.reports.formats.terminal import print_table
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.analysis.simulate import Crowd, plan_study
    from dbbench.study.analysis.summary import SIMULATED

    crowd = Crowd(_shares(shares), error, careless)
    sizes = _sizes(pairs)
    console = plain_console()
    raw, majority = crowd.expected(raters_per_pair)
    rows = []
    with shown("simulating") as (_, advance):
        for size in sizes:
            found = plan_study(
                crowd,
                pairs=size,
                raters_per_pair=raters_per_pair,
                questions_per_rater=questions_per_rater,
                studies=studies,
                seed=seed,
                advance=advance,
            )
            rows.append(
                [
                    f"{found.pairs}",
                    f"{found.answers}",
                    f"{found.raters}",
                    f"{100 * found.half_width:.1f} points",
                    f"{100 * found.power:.0f}%",
                ]
            )
    title = f"expected by majority {_three(majority)}, of all answers {_three(raw)}"
    header = ("pairs", "answers", "raters", "difference +-", "distinguished")
    notes = (SIMULATED, f"{studies} studies of each size")
    print_table(console, title, header, rows, banners=notes, left=())


def _shares(text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
        total = sum(values)
        a, b, c = (value / (100 if total > 1.5 else 1) for value in values)
    except ValueError:
        raise UserError(
            f'cannot read --shares "{text}"; write three numbers, such as 68,22,10'
        ) from None
    return a, b, c


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 2:
        raise UserError(
            f'cannot read --pairs "{text}"; write numbers of at least 2, such as 200,400'
        )
    return sizes


def _three(shares: Iterable[float]) -> str:
    return " / ".join(f"{100 * share:.0f}%" for share in shares)
