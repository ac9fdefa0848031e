"""`dbbench cache`: show and delete the cached features of encoders."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from dbbench.errors import unknown
from dbbench.terminal import plain_console

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=True)
app.add_typer(
    cache_app,
    name="cache",
    help="Show and delete cached features. DBBENCH_CACHE sets the folder.",
)


@cache_app.command("ls", epilog="Example:  dbbench cache ls")
def ls() -> None:
    """Show the cached features of each encoder, the last used first."""
    from dbbench.evaluation.feature_cache import Cache
    from dbbench.reports.formats.terminal import print_table
    from dbbench.units import gigabytes

    cache, console = Cache(), plain_console()
    entries = cache.entries()
    if entries:
        header = ("encoder", "images", "texts", "distances", "size", "last used")
        rows = [
            [
                entry.encoder,
                f"{entry.images:,}",
                f"{entry.texts:,}",
                f"{entry.matrices:,}",
                gigabytes(entry.size),
                f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}",
            ]
            for entry in entries
        ]
        print_table(console, "", header, rows)
    total = gigabytes(sum(entry.size for entry in entries))
    console.print(
        f"{total} of at most {gigabytes(cache.limit)} in {cache.folder}"
        " (DBBENCH_CACHE, DBBENCH_CACHE_LIMIT)",
        soft_wrap=True,
        highlight=False,
    )


@cache_app.command(
    epilog="Examples:\n\ndbbench cache clear\n\n"
    "dbbench cache clear --encoder timm:vit_small_patch16_224.dino"
)
def clear(
    encoder: Annotated[
        str | None,
        typer.Option(help="Delete only this encoder's features (names: dbbench cache ls)."),
    ] = None,
) -> None:
    """Delete cached features; they are computed again when needed."""
    from dbbench.evaluation.feature_cache import Cache
    from dbbench.units import gigabytes

    cache = Cache()
    known = {entry.encoder for entry in cache.entries()}
    if encoder is not None and encoder not in known:
        raise unknown("encoder in the cache", encoder, known, "dbbench cache ls")
    size = sum(entry.size for entry in cache.clear(encoder))
    print(f"{gigabytes(size)} removed from {cache.folder}")
