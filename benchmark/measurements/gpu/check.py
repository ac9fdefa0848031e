"""Settles in half an hour what only a GPU can say of suite `paper`: make gpu-check

Random weights at real size are written as an offline hub cache, so no network and no photograph is
needed. Everything found is one JSON file and one table. On a machine without a GPU, `--tiny` does
the same in small on the CPU, to see that the kit itself works.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ALL = ("load", "bits", "cpu", "half", "estimate", "cards", "speed", "killed", "jobs", "together",
       "compiled")  # fmt: skip


def main(
    out: Annotated[Path, typer.Option(help="JSON file; the table stands beside it as .md.")] = Path(
        "results/gpu-check.json"
    ),
    sections: Annotated[str, typer.Option(help="Only these, such as load,bits.")] = ",".join(ALL),
    work: Annotated[
        Path | None, typer.Option(help="Folder for weights and runs, kept. Default: temporary.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small networks, on the CPU.")] = False,
) -> None:
    """Measure each section; one that fails is noted, and the others go on."""
    folder = work or Path(tempfile.mkdtemp(prefix="gpu-check-"))
    weights = folder / "hub"
    environment = {"HF_HOME": str(weights), "HF_HUB_OFFLINE": "1"}
    os.environ |= environment  # before the hub's library is imported
    asked = sections.split(",")
    if unknown := set(asked) - set(ALL):
        raise typer.BadParameter(f"no section {', '.join(unknown)}; there are {', '.join(ALL)}")
    try:
        document = _measure(asked, folder, tiny, environment)
    finally:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    table = _table(document)
    out.with_suffix(".md").write_text(table, "utf-8")
    print(table)
    if not all(found["ok"] for found in document["sections"].values()):
        raise typer.Exit(1)


def _measure(
    asked: list[str], folder: Path, tiny: bool, environment: dict[str, str]
) -> dict[str, Any]:
    from commands import COMMANDS, Shop
    from prepare import write
    from sections import SECTIONS, Bench, timed

    from dbbench.device import require_device
    from dbbench.versions import versions

    device = "cpu" if tiny else "cuda"
    require_device(device)
    if not (folder / "hub" / "hub").is_dir():
        write(folder / "hub", tiny=tiny)
    bench = Bench(device, 64 if tiny else 512)
    shop = Shop(folder, device, tiny, environment)
    found: dict[str, Any] = {}
    for name in asked:
        section: Callable[[], dict[str, Any]] = (
            (lambda n=name: SECTIONS[n](bench)) if name in SECTIONS
            else (lambda n=name: COMMANDS[n](shop))
        )  # fmt: skip
        found[name] = entry = {}
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name in COMMANDS:
            bench.__dict__.pop("backbone", None)  # the card is for the commands now
            _free()
        with timed(entry):
            try:
                entry |= {"ok": True} | section()
            except Exception as error:
                traceback.print_exc()
                entry |= {"ok": False, "error": " ".join(str(error).split())[:500]}
        found[name] = entry
    return {"machine": _machine(tiny), "versions": versions(), "sections": found}


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _machine(tiny: bool) -> dict[str, Any]:
    import torch

    from dbbench.device import driver_cuda

    machine: dict[str, Any] = {"tiny": tiny, "python": platform.python_version()}
    if torch.cuda.is_available():
        machine |= {
            "gpu": torch.cuda.get_device_name(),
            "capability": list(torch.cuda.get_device_capability()),
            "memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1),
            "driver_cuda": list(driver_cuda() or ()),
        }
    return machine


def _table(document: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    lines = [f"GPU check: {machine}", "", "| section | | seconds | found |", "|---|---|---|---|"]
    for name, found in document["sections"].items():
        rest = {k: v for k, v in found.items() if k not in {"ok", "seconds"}}
        state = "ok" if found["ok"] else "**wrong**"
        lines.append(f"| {name} | {state} | {found['seconds']} | {_text(rest)} |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(each)}" for key, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


if __name__ == "__main__":
    typer.run(main)
