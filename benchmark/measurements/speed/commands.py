"""Times the quick commands: the median of several calls of each, in new processes.

python benchmark/measurements/speed/commands.py results/mini \\
    --out benchmark/measurements/results/commands.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table


def main(
    folder: Annotated[Path, typer.Argument(help="A finished output folder, for `report`.")],
    calls: Annotated[int, typer.Option(help="Calls of each command.", min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
) -> None:
    """Time `dbbench --help`, `list` and `report`, and an empty Python process for comparison."""
    dbbench = str(Path(sys.executable).with_name("dbbench"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "dbbench --help": [dbbench, "--help"],
        "dbbench list subjects": [dbbench, "list", "subjects"],
        "dbbench list metrics": [dbbench, "list", "metrics"],
        "dbbench report": [dbbench, "report", str(folder)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in track(range(calls), "timing"):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    table = Table("command", "median s", "slowest s")
    for name, times in seconds.items():
        table.add_row(name, f"{statistics.median(times):.2f}", f"{max(times):.2f}")
    Console().print(table)
    if out is not None:
        result = {name: [round(t, 3) for t in times] for name, times in seconds.items()}
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
