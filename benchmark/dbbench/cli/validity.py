"""`dbbench validity`: test the metrics on drawn images whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbench.cli.options import Device
from dbbench.errors import UserError
from dbbench.storage.disk import RESULTS
from dbbench.terminal import plain_console

app = typer.Typer()


@app.command(
    epilog="Examples:\n\ndbbench validity\n\n"
    "dbbench validity --subjects dog,teapot,clock,can,cat,vase --out results/validity-six"
)
def validity(
    subjects: Annotated[
        str, typer.Option(help="all, objects, live, or names such as dog,teapot.")
    ] = "all",
    prompts: Annotated[
        int | None,
        typer.Option(min=2, max=25, help="Use only this many of each subject's 25 prompts."),
    ] = None,
    images: Annotated[int, typer.Option(min=2, max=8, help="Number of images per prompt.")] = 2,
    out: Annotated[
        Path, typer.Option(help="Output folder; reports of mini runs beside it link to it.")
    ] = RESULTS / "validity",
    device: Device = "auto",
) -> None:
    """Draw images whose truth is known, and test the metrics on them.

    Uses the embedded world and its encoders only; nothing is trained or sampled. Writes a page,
    tables and a plot. Finished results are not computed again. All subjects take about three
    minutes of CPU time.
    """
    from dbbench.bars import shown
    from dbbench.data.dataset import select_subjects
    from dbbench.device import resolve_device
    from dbbench.mini.source import MiniWorld
    from dbbench.reports.validity.pages import (
        EXAMPLE_SUBJECTS,
        print_validity,
        read_validity,
        write_validity,
    )
    from dbbench.storage.disk import RECORD as RUN
    from dbbench.validity.measure import measure_validity, validity_record
    from dbbench.validity.truth import Examples

    console = plain_console()
    place = resolve_device(device)
    chosen = select_subjects(MiniWorld(), subjects)
    if (out / RUN).is_file():
        raise UserError(f"{out} contains a run; choose another folder with --out")
    wanted = validity_record(chosen, prompts=prompts, images=images, device=place)
    record, tables = read_validity(out)
    if any(record.get(key) != value for key, value in wanted.items()):
        names = [subject.name for subject in chosen]
        examples: Examples = {n: {} for n in EXAMPLE_SUBJECTS if n in names} or {names[0]: {}}
        with shown() as (status, advance):
            status(f"drawing and encoding {len(chosen)} subjects")
            found = measure_validity(
                chosen,
                prompts=prompts,
                images=images,
                device=place,
                advance=advance,
                examples=examples,
            )
        write_validity(found, examples, out)
        record, tables = read_validity(out)
    print_validity(tables, record["lessons"], console)
    console.print(f"page: {out}/index.html", soft_wrap=True, highlight=False)
