"""Makes the embedded weights: `python -m dbbench.mini.training.train`, two hours on two cores.

Each part is seeded, takes a fixed number of steps, saves its state every two minutes and goes on
from there when called again.
"""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from dbbench.mini.training import train_backbone, train_encoders
from dbbench.mini.training.dataset import again, render
from dbbench.mini.training.train_loop import computes_in_bfloat16

WEIGHTS = Path(__file__).parents[1] / "weights"


class Part(StrEnum):
    """What to make; `all` makes everything, in this order."""

    autoencoder = "autoencoder"
    backbone = "backbone"
    dino = "dino"
    clip = "clip"
    judge = "judge"
    all = "all"


STEPS = {
    Part.autoencoder: 2000,
    Part.backbone: 7_000,
    Part.dino: 2000,
    Part.clip: 1000,
    Part.judge: 600,
}


def main(
    part: Annotated[Part, typer.Argument(help="What to train.")] = Part.all,
    work: Annotated[Path, typer.Option(help="Folder of pictures, states and logs.")] = Path(
        "mini-training"
    ),
    out: Annotated[Path, typer.Option(help="Where the finished weights go.")] = WEIGHTS,
    count: Annotated[int, typer.Option(help="Pictures to draw.", min=1000)] = 96_000,
    scale: Annotated[
        float, typer.Option(help="Take this fraction of the steps: 0.1 for a trial.", min=0.001)
    ] = 1.0,
    compiled: Annotated[bool, typer.Option(help="Use torch.compile for the UNet.")] = True,
    export_only: Annotated[bool, typer.Option(help="Export the last saved state.")] = False,
) -> None:
    """Train the embedded models on the embedded world and write their weights.

    The finished folders replace those in the package; loss curves lie beside them as CSV.
    """
    console = Console()
    pictures = render(work / "world", count)
    out.mkdir(parents=True, exist_ok=True)
    for one in STEPS if part is Part.all else [part]:
        steps = max(1, round(scale * STEPS[one]))
        console.print(f"[bold]{one.value}[/bold]: {steps:,} steps")
        if not export_only:
            _train(one, pictures, work, steps=steps, compiled=compiled)
        _export(one, pictures, work, out)
        _note(one, work, out, count)


def _train(
    part: Part, pictures: NDArray[np.uint8], work: Path, *, steps: int, compiled: bool
) -> None:
    if part is Part.autoencoder:
        train_backbone.train_autoencoder(pictures, work, steps=steps)
    elif part is Part.backbone:
        train_backbone.train_backbone(pictures, work, steps=steps, compile_=compiled)
    elif part is Part.dino:
        others = render(work / "again", len(pictures), of=again)
        train_encoders.train_dino(pictures, others, work, steps=steps)
    elif part is Part.clip:
        tokens = train_backbone.tokenize_world(len(pictures), work / f"tokens-{len(pictures)}.npy")
        train_encoders.train_clip(pictures, tokens, work, steps=steps)
    elif part is Part.judge:
        train_encoders.train_judge(pictures, work, steps=steps)


def _export(part: Part, pictures: NDArray[np.uint8], work: Path, out: Path) -> None:
    if part is Part.backbone:
        train_backbone.export_backbone(work, out / "backbone")
    elif part is Part.dino:
        train_encoders.export_dino(pictures, work, out / "dino")
    elif part is Part.clip:
        train_encoders.export_clip(work, out / "clip")
    elif part is Part.judge:
        train_encoders.export_judge(work, out / "judge")
    (out / "curves").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / f"{part.value}.csv", out / "curves" / f"{part.value}.csv")


def _note(part: Part, work: Path, out: Path, count: int) -> None:
    """Keep beside the weights how they were made."""
    file = out / "recipe.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    state = torch.load(work / f"{part.value}.pt", weights_only=True)
    notes[part.value] = {
        "pictures": count,
        "steps": state["step"],
        "minutes": round(state["spent"] / 60, 1),
        "torch": torch.__version__,
        "bfloat16": computes_in_bfloat16(),
    }
    quality = work / f"{part.value}.json"
    if quality.exists():
        notes[part.value] |= json.loads(quality.read_text())
    file.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
