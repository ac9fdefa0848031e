"""`dbbench data`: download and verify the photographs, convert pickled weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbbench.errors import UserError

data_app = typer.Typer(
    no_args_is_help=True, help="Download and verify photographs; convert weights."
)
app = typer.Typer()
app.add_typer(data_app, name="data")


@data_app.command(epilog="Example:  dbbench data verify photos")
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder with a copy of the photographs.")],
) -> None:
    """Verify a copy of the photographs by its hashes."""
    from dbbench.data.download import verify_data

    result = verify_data(folder)
    if not result.complete:
        raise UserError(result.summary)
    print(result.summary)


@data_app.command(
    epilog="Examples:\n\ndbbench data fetch --out photos\n\n"
    "dbbench data fetch --out photos --mirror dreambooth.zip"
)
def fetch(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("photos"),
    mirror: Annotated[
        str | None,
        typer.Option(help="A zip file, a folder, or a URL of either. Default: the hub."),
    ] = None,
) -> None:
    """Download the photographs; valid files are not downloaded again."""
    from dbbench.bars import shown
    from dbbench.data.download import fetch_data

    with shown("fetching") as (_, advance):
        result = fetch_data(
            out, mirror=mirror, progress=lambda what, done, total: advance(done, total, {})
        )
    print(result.summary)


@data_app.command(
    epilog="Examples:\n\ndbbench data convert weights.ckpt weights.safetensors\n\n"
    "dbbench data convert old-pipeline new-pipeline"
)
def convert(
    old: Annotated[Path, typer.Argument(help="Pickled weights, or a folder with such files.")],
    new: Annotated[Path, typer.Argument(help="The .safetensors file or the folder to write.")],
) -> None:
    """Convert pickled weights to safetensors, without running any code in them.

    dbbench loads safetensors only.
    """
    from dbbench.generation.checkpoints.convert import convert as convert_weights

    if not old.exists():
        raise UserError(f"{old} does not exist; correct the path")
    result = convert_weights(old, new)
    for path in result.written:
        print(f"wrote {path}")
    if result.left_out:
        print(f"left out: {', '.join(result.left_out)}")
