"""Measures how often the regression gate raises a false alarm, and if it detects two real faults.

python benchmark/measurements/gate/measure.py /tmp/gate --subjects 8 --seeds 7 \\
    --out benchmark/measurements/results/gate.json

Suite `gate` on mini is run with several seeds. False alarms: every pair of seeds is checked, one as
the baseline of the other (7 seeds are 21 pairs). Faults: half the learning rate, and no prior loss,
each with the first seed against the baseline of the same seed. Pairs share seeds, so they are not
independent; only the count of alarms is reported. Finished runs are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from dbbench.reports.gate import Line, baseline_of, check
from dbbench.reports.results import load_results
from dbbench.suites.suite import load_suite

SUBJECTS = load_suite("gate", "mini").subjects.split(",")


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the runs.")],
    subjects: Annotated[int, typer.Option(help="Number of the suite's subjects.", min=7)] = 8,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds n, which give n(n-1)/2 pairs.", min=2)
    ] = 7,
    jobs: Annotated[int, typer.Option(help="Trainings at once; the result is the same.")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Settings of all runs, for example to make them small."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
) -> None:
    """Make the runs, check all pairs, print and write the result."""
    names, common = ",".join(SUBJECTS[:subjects]), settings or []
    for seed in range(seeds):
        _run(folder / f"seed-{seed}", names, seed, jobs, common)
    suite = load_suite("gate", "mini")
    rate = float(suite.methods["dreambooth"]["learning_rate"]) / 2
    faults = {
        "half the learning rate": f"methods.dreambooth.learning_rate={rate}",
        "no prior loss": "methods.dreambooth.prior_weight=0.0",
    }
    for name, change in faults.items():
        _run(folder / name.replace(" ", "-"), names, 0, jobs, [*common, change])
    alarms = []
    for a, b in combinations(range(seeds), 2):
        lines = _check(folder / f"seed-{a}", folder / f"seed-{b}")
        alarms.append({"pair": [a, b], "regressed": _named(lines), "lowest p": _lowest(lines)})
    found = {}
    for name in faults:
        lines = _check(folder / "seed-0", folder / name.replace(" ", "-"))
        found[name] = {"regressed": _named(lines), "lowest p": _lowest(lines)}
    result: dict[str, Any] = {
        "subjects": subjects,
        "seeds": seeds,
        "settings": common,
        "pairs": len(alarms),
        "false alarms": sum(bool(pair["regressed"]) for pair in alarms),
        "faults": found,
        "every pair": alarms,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "every pair"}))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _run(folder: Path, subjects: str, seed: int, jobs: int, settings: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("dbbench")), "run", "--suite=gate", "--on=mini"]
    command += [f"--subjects={subjects}", f"--seeds={seed}", f"--out={folder}"]
    command += [f"--jobs-per-device={jobs}"]
    subprocess.run([*command, *(f"--set={setting}" for setting in settings)], check=True)


def _check(baseline: Path, run: Path) -> tuple[Line, ...]:
    return check(load_results(run), baseline_of(load_results(baseline)), {})


def _named(lines: tuple[Line, ...]) -> list[str]:
    return [
        f"{line.metric.name} {line.new - line.baseline:+.4f}" for line in lines if line.regressed
    ]


def _lowest(lines: tuple[Line, ...]) -> float:
    return round(min(line.found.p_holm or 1.0 for line in lines), 4)


if __name__ == "__main__":
    typer.run(main)
