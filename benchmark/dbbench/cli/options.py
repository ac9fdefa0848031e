"""What several commands read from their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dbbench.errors import UserError

if TYPE_CHECKING:
    from dbbench.remote import Remote

RESULTS = Path("results")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")]
Photographs = Annotated[
    Path | None, typer.Option(help="Folder of the photographs (see: dbbench data fetch).")
]
Together = Annotated[
    int, typer.Option(min=1, help="Subjects that textual_inversion trains side by side.")
]


def latest() -> Path:
    """Return the output folder below results/ that was written to last."""
    records = sorted(RESULTS.glob("*/suite.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise UserError(f"no results in {RESULTS}/; name a folder, or make some with: dbbench run")
    return records[-1].parent


def open_folder(out: str) -> tuple[Path, Remote | None]:
    """Return an output folder; of an address it is the mirror, with what is there beside it."""
    from dbbench.remote import Remote, is_address

    if not is_address(out):
        return Path(out).expanduser(), None
    remote = Remote(out.rstrip("/"))
    remote.open()
    return remote.mirror, remote


def names(text: str | None, option: str) -> list[str] | None:
    """Return the comma-separated names of an option, None where it was not given."""
    if text is None:
        return None
    given = [name for part in text.split(",") if (name := part.strip())]
    if not given:
        raise UserError(f'no name in {option} "{text}"')
    return given


def numbers(text: str | None) -> list[int] | None:
    """Return the comma-separated seeds, None where none were given."""
    given = names(text, "--seeds")
    if given is None:
        return None
    for seed in given:
        if not seed.isdecimal():
            raise UserError(f'"{seed}" is no seed; write whole numbers from 0 on: --seeds 0,1')
    return [int(seed) for seed in given]
