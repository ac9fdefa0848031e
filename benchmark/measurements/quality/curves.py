"""Draws the loss curves of the embedded models.

python benchmark/measurements/quality/curves.py benchmark/measurements/results/mini-curves.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import typer

from dbbench.mini import weights

NAMES = ("autoencoder", "backbone", "dino", "clip", "judge")


def main(out: Annotated[Path, typer.Argument(help="The PNG to write.")]) -> None:
    """Plot loss against steps, one panel per model."""
    folder = weights("backbone").parent / "curves"
    figure, axes = plt.subplots(1, len(NAMES), figsize=(15, 2.8), layout="constrained")
    for axis, name in zip(axes, NAMES, strict=True):
        table = pd.read_csv(folder / f"{name}.csv")
        axis.plot(table["step"], table["loss"], linewidth=1)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.set_yscale("log")
    axes[0].set_ylabel("loss")
    figure.suptitle("mini: training of the embedded world's models")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
