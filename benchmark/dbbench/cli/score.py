"""`dbbench score` for any images, and `dbbench oracle` for the photographs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbench.cli.options import Device, names
from dbbench.errors import UserError
from dbbench.storage.disk import RESULTS
from dbbench.terminal import plain_console

app = typer.Typer()

_Encoders = Annotated[
    list[str] | None,
    typer.Option(
        "--encoder",
        metavar="ROLE=NAME",
        help="The encoder of a role under every protocol: dino=mini-dino. Repeatable.",
    ),
]
_Protocols = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="Names, or all. Default: paper, and those that need only its encoders.",
    ),
]


@app.command(
    epilog="Examples:\n\ndbbench score my-images --references photos\n\n"
    "dbbench score ours.csv theirs.csv --protocol paper,kosmos-g\n\n"
    "dbbench score results/mini --protocol all\n\n"
    "A folder is <subject>/<prompt id>/<n>.png. A manifest (CSV, JSONL, Parquet) has the columns "
    "image, subject, and prompt (an id or the text); also text, method, seed, class_noun."
)
def score(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|MANIFEST...",
            help="Folders, manifests, data sets saved by the datasets library, or finished runs.",
            show_default=False,
        ),
    ],
    protocol: _Protocols = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="Folder with one folder for each subject, or mini. "
            "Default: those of the run, else photos."
        ),
    ] = None,
    encoder: _Encoders = None,
    metrics: Annotated[
        str | None, typer.Option(help="More metrics: div,dinov2-i,pres (dbbench list metrics).")
    ] = None,
    identifier: Annotated[
        str, typer.Option(help="The rare token in your prompts, such as sks.")
    ] = "",
    method: Annotated[
        str | None,
        typer.Option(help="The method's name in the tables. Default: the folder's name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Default: results/score-NAME.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Score images by the published protocols, side by side, with intervals."""
    from dbbench.bars import shown
    from dbbench.data.photographs import Photographs
    from dbbench.device import resolve_device
    from dbbench.protocols.scorecard import score_images
    from dbbench.reports.scoring.tables import print_reconciliation, write_reconciliation

    with shown("reading") as (status, advance):
        result, account = score_images(
            images, references, Photographs(), method=method, identifier=identifier,
            protocols=names(protocol, "--protocol"), metrics=names(metrics, "--metrics") or (),
            encoders=_overrides(encoder),
            device=resolve_device(device), status=status, advance=advance,
        )  # fmt: skip
    target = out or RESULTS / f"score-{account.name}"
    write_reconciliation(result, account, target)
    console = plain_console()
    print_reconciliation(result, account, console)
    console.print(
        f"written: {target}/score.md, scores.parquet, summary.csv and more",
        soft_wrap=True,
        highlight=False,
    )


@app.command(
    epilog="Examples:\n\ndbbench oracle --data photos\n\ndbbench oracle --data mini\n\n"
    "dbbench oracle --data photos --protocol oft --encoder clip=open_clip:ViT-B-32:openai"
)
def oracle(
    data: Annotated[
        str | None,
        typer.Option(help="Folder of the photographs, or mini. Default: photos, else mini."),
    ] = None,
    protocol: _Protocols = None,
    encoder: _Encoders = None,
    device: Device = "auto",
) -> None:
    """Score the real images as if they had been generated, to check the setup."""
    from dbbench.bars import shown
    from dbbench.data.photographs import Photographs
    from dbbench.device import resolve_device
    from dbbench.image_sets.references import DEFAULT, MINI
    from dbbench.protocols.oracle import score_real_images
    from dbbench.reports.scoring.oracle import print_oracle

    console = plain_console()
    if data is None and not DEFAULT.is_dir():
        console.print(
            f"no folder {DEFAULT} here: using the embedded world's references (to choose: --data)",
            highlight=False,
        )
        data = MINI
    with shown("reading") as (status, advance):
        result = score_real_images(
            data, Photographs(),
            protocols=names(protocol, "--protocol"), encoders=_overrides(encoder),
            device=resolve_device(device), status=status, advance=advance,
        )  # fmt: skip
    print_oracle(result, console)


def _overrides(encoder: list[str] | None) -> dict[str, str]:
    chosen = {}
    for text in encoder or ():
        for part in text.split(","):
            role, separator, name = part.partition("=")
            if not separator or not role.strip() or not name.strip():
                raise UserError(f'cannot read "--encoder {text}"; write it as dino=mini-dino')
            chosen[role.strip()] = name.strip()
    return chosen
