"""Trains the embedded weights: `python -m dbbench.mini.training.train`, two hours on two cores.

Each network is seeded and takes a fixed number of steps. Its state is saved every two minutes; the
same command resumes from it.
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


class Network(StrEnum):
    """The network to train; `all` trains all of them, in this order."""

    autoencoder = "autoencoder"
    backbone = "backbone"
    dino = "dino"
    clip = "clip"
    judge = "judge"
    all = "all"


STEPS = {
    Network.autoencoder: 2000,
    Network.backbone: 7_000,
    Network.dino: 2000,
    Network.clip: 1000,
    Network.judge: 600,
}


def main(
    network: Annotated[Network, typer.Argument(help="The network to train.")] = Network.all,
    work: Annotated[Path, typer.Option(help="Folder for pictures, states and logs.")] = Path(
        "mini-training"
    ),
    out: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = WEIGHTS,
    count: Annotated[int, typer.Option(help="Number of training pictures.", min=1000)] = 96_000,
    scale: Annotated[
        float, typer.Option(help="Fraction of the steps to take: 0.1 for a trial.", min=0.001)
    ] = 1.0,
    compiled: Annotated[bool, typer.Option(help="Use torch.compile for the UNet.")] = True,
    export_only: Annotated[bool, typer.Option(help="Only export the last saved state.")] = False,
) -> None:
    """Train the embedded models on the embedded world and write their weights.

    The finished folders replace those in the package; loss curves are written to `curves/` as CSV.
    """
    console = Console()
    pictures = render(work / "world", count)
    out.mkdir(parents=True, exist_ok=True)
    for one in STEPS if network is Network.all else [network]:
        steps = max(1, round(scale * STEPS[one]))
        console.print(f"[bold]{one.value}[/bold]: {steps:,} steps")
        if not export_only:
            _train(one, pictures, work, steps=steps, compiled=compiled)
        _export(one, pictures, work, out)
        _note(one, work, out, count)


def _train(
    network: Network, pictures: NDArray[np.uint8], work: Path, *, steps: int, compiled: bool
) -> None:
    if network is Network.autoencoder:
        train_backbone.train_autoencoder(pictures, work, steps=steps)
    elif network is Network.backbone:
        train_backbone.train_backbone(pictures, work, steps=steps, compile_=compiled)
    elif network is Network.dino:
        others = render(work / "again", len(pictures), of=again)
        train_encoders.train_dino(pictures, others, work, steps=steps)
    elif network is Network.clip:
        tokens = train_backbone.tokenize_world(len(pictures), work / f"tokens-{len(pictures)}.npy")
        train_encoders.train_clip(pictures, tokens, work, steps=steps)
    elif network is Network.judge:
        train_encoders.train_judge(pictures, work, steps=steps)


def _export(network: Network, pictures: NDArray[np.uint8], work: Path, out: Path) -> None:
    if network is Network.backbone:
        train_backbone.export_backbone(work, out / "backbone")
    elif network is Network.dino:
        train_encoders.export_dino(pictures, work, out / "dino")
    elif network is Network.clip:
        train_encoders.export_clip(work, out / "clip")
    elif network is Network.judge:
        train_encoders.export_judge(work, out / "judge")
    (out / "curves").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work / f"{network.value}.csv", out / "curves" / f"{network.value}.csv")


def _note(network: Network, work: Path, out: Path, count: int) -> None:
    """Record in recipe.json how the weights were trained."""
    file = out / "recipe.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    state = torch.load(work / f"{network.value}.pt", weights_only=True)
    notes[network.value] = {
        "pictures": count,
        "steps": state["step"],
        "minutes": round(state["spent"] / 60, 1),
        "torch": torch.__version__,
        "bfloat16": computes_in_bfloat16(),
    }
    quality = work / f"{network.value}.json"
    if quality.exists():
        notes[network.value] |= json.loads(quality.read_text())
    file.write_text(json.dumps(notes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
