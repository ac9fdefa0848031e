"""Makes the embedded weights: `python -m dbbench.mini.train`, about two hours on two CPU cores.

Each step is seeded, saves its state every two minutes and goes on from there when called again.
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

from dbbench.mini import train_backbone, train_encoders
from dbbench.mini.dataset import render

WEIGHTS = Path(__file__).parent / "weights"


class Step(StrEnum):
    """What to make; `all` makes everything, in this order."""

    autoencoder = "autoencoder"
    backbone = "backbone"
    dino = "dino"
    clip = "clip"
    judge = "judge"
    all = "all"


def main(
    step: Annotated[Step, typer.Argument(help="What to train.")] = Step.all,
    work: Annotated[Path, typer.Option(help="Folder of pictures, states and logs.")] = Path(
        "mini-training"
    ),
    out: Annotated[Path, typer.Option(help="Where the finished weights go.")] = WEIGHTS,
    count: Annotated[int, typer.Option(help="Pictures to draw.", min=1000)] = 48_000,
    minutes: Annotated[
        float, typer.Option(help="Time for the backbone; the encoders get a tenth each.", min=0.1)
    ] = 90.0,
    compiled: Annotated[bool, typer.Option(help="Use torch.compile for the UNet.")] = True,
    export_only: Annotated[bool, typer.Option(help="Export the last saved state.")] = False,
) -> None:
    """Train the embedded models on the embedded world and write their weights.

    The finished folders replace those in the package; loss curves lie beside them as CSV.
    """
    console = Console()
    pictures = render(work / "world", count)
    out.mkdir(parents=True, exist_ok=True)
    for one in [s for s in Step if s is not Step.all] if step is Step.all else [step]:
        console.print(f"[bold]{one.value}[/bold]")
        if not export_only:
            _train(one, pictures, work, minutes=minutes, compiled=compiled)
        _export(one, work, out)
        _note(one, work, out, count)


def _train(
    step: Step, pictures: NDArray[np.uint8], work: Path, *, minutes: float, compiled: bool
) -> None:
    tokens_file = work / f"tokens-{len(pictures)}.npy"
    if step is Step.autoencoder:
        train_backbone.train_autoencoder(pictures, work)
    elif step is Step.backbone:
        train_backbone.train_backbone(pictures, work, minutes=minutes, compile_=compiled)
    elif step is Step.dino:
        train_encoders.train_dino(pictures, work, minutes=minutes / 10)
    elif step is Step.clip:
        tokens = train_backbone.tokenize_world(len(pictures), tokens_file)
        train_encoders.train_clip(pictures, tokens, work, minutes=minutes / 10)
    elif step is Step.judge:
        train_encoders.train_judge(pictures, work, minutes=minutes / 15)


def _export(step: Step, work: Path, out: Path) -> None:
    if step is Step.backbone:
        train_backbone.export_backbone(work, out / "backbone")
    elif step is Step.dino:
        train_encoders.export_dino(work, out / "dino")
    elif step is Step.clip:
        train_encoders.export_clip(work, out / "clip")
    elif step is Step.judge:
        train_encoders.export_judge(work, out / "judge")
    curve = work / f"{step.value}.csv"
    if curve.exists():
        (out / "curves").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(curve, out / "curves" / curve.name)


def _note(step: Step, work: Path, out: Path, count: int) -> None:
    """Keep beside the weights how they were made."""
    file = out / "recipe.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    name = "vae" if step is Step.autoencoder else step.value
    state = torch.load(work / f"{name}.pt", weights_only=True)
    notes[step.value] = {
        "pictures": count,
        "steps": state["step"],
        "minutes": round(state.get("spent", 0.0) / 60, 1) or None,
        "torch": torch.__version__,
    }
    file.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
