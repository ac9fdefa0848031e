"""Kills runs (`kill -9`) at random moments, repeats the command, checks for lost or wrong results.

    python benchmark/measurements/faults/kill.py --kills 100 \\
        --out benchmark/measurements/results/faults-kill.json

Four subjects of the embedded world, with short training. Each time a run finishes, it is compared
with an uninterrupted run. Then a new run starts, until the number of kills is reached.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared import Job, begin, dbbench, differences, hashes, left_behind, write_result

from dbbench.storage.events import EVENTS, EventLog

EARLY = 0.2
"""Share of the kills at any moment from the start; the others wait until work has begun."""


def main() -> int:
    """Run, kill, compare, write; return 1 if anything was lost or wrong."""
    options = _options()
    job = Job(options.subjects, options.steps, options.save_every)
    work = Path(options.work or tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    result = kill_again_and_again(job, work, options.kills, options.seed, options.mean)
    write_result(options.out, result)
    print(f"{'good' if result['good'] else 'BAD'}: {options.out}")
    if not options.work:
        shutil.rmtree(work)
    return 0 if result["good"] else 1


def kill_again_and_again(
    job: Job, work: Path, kills: int, seed: int, mean: float
) -> dict[str, Any]:
    """Return the result of `kills` kills, on average `mean` seconds after work has begun."""
    begun = time.monotonic()
    code, output = dbbench(work, job.arguments(work / "whole"))
    assert code == 0, output
    whole, alone = hashes(work / "whole"), time.monotonic() - begun
    report(f"uninterrupted: {alone:.0f} s, {len(whole)} files")
    draw = random.Random(seed)
    killed, bad, rounds = 0, [], 0
    redone: dict[str, list[int]] = {"steps": [], "images": []}
    stages: Counter[str] = Counter()
    while killed < kills:
        rounds += 1
        out, trace = work / f"round-{rounds}", work / f"trace-{rounds}.txt"
        shutil.rmtree(work / "cache", ignore_errors=True)
        ended = False
        while killed < kills and not ended:
            ended = not call_and_kill(job, work, out, trace, draw, mean)
            killed += not ended
            if not ended and killed % 10 == 0:
                report(f"{killed} kills, round {rounds}, {time.monotonic() - begun:.0f} s")
        if not ended:
            code, output = dbbench(work, job.arguments(out))
            bad += [] if code == 0 else [f"round {rounds}: exit code {code}: {output[-500:]}"]
        bad += [f"round {rounds}: {name} differs" for name in differences(out, whole)]
        bad += [f"round {rounds}: {name} left behind" for name in left_behind(out)]
        twice, counts = stages_done(out)
        bad += [f"round {rounds}: {name} done twice" for name in twice]
        stages += counts
        for kind, numbers in work_redone(trace).items():
            redone[kind] += numbers
        shutil.rmtree(out)
    interval = {"steps": job.save_every, "images": 25}
    bad += [
        f"{most} {kind} redone after one kill"
        for kind, numbers in redone.items()
        if (most := max(numbers, default=0)) > interval[kind]
    ]
    return {
        "what": "kill -9 at random moments, each followed by the same command",
        "job": asdict(job),
        "seed": seed,
        "kills": killed,
        "runs that came to their end": rounds,
        "files compared in each": len(whole),
        "redone after one kill, at most": {k: max(v, default=0) for k, v in redone.items()},
        "redone after one kill, at most allowed": interval,
        "times that training went on in the middle or began anew": len(redone["steps"]),
        "times that sampling did": len(redone["images"]),
        "stages done": dict(stages),
        "seconds uninterrupted": round(alone, 1),
        "seconds in all": round(time.monotonic() - begun, 1),
        "wrong": bad,
        "good": not bad,
    }


def call_and_kill(
    job: Job, work: Path, out: Path, trace: Path, draw: random.Random, mean: float
) -> bool:
    """Call the command and kill it; return whether it was killed before its end."""
    call = begin(work, job.arguments(out), trace=trace)
    early, before = draw.random() < EARLY, _sizes(out, trace)
    while not early and not call.ended and _sizes(out, trace) == before:
        time.sleep(0.01)
    limit = time.monotonic() + draw.expovariate(1 / mean)
    while not call.ended and time.monotonic() < limit:
        time.sleep(0.005)
    call.kill()
    code, output = call.wait()
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"exit code {code}: {output[-2000:]}")
    return code != 0


def _sizes(out: Path, trace: Path) -> list[int]:
    files = [trace, *sorted((out / EVENTS).glob("*"))]
    return [path.stat().st_size for path in files if path.is_file()]


def stages_done(out: Path) -> tuple[list[str], Counter[str]]:
    """Return the stages that were done more than once, and the count of each stage."""
    events = EventLog(out).read()
    done = Counter((e["stage"], e.get("name", "")) for e in events if e.get("status") == "done")
    counts: Counter[str] = Counter()
    for (stage, _), count in done.items():
        counts[stage] += count
    return [" ".join(key) for key, count in done.items() if count > 1], counts


def work_redone(trace: Path) -> dict[str, list[int]]:
    """Return how much work was redone each time that a new process resumed it."""
    last: dict[str, tuple[str, int]] = {}
    steps: list[int] = []
    seen: dict[str, str] = {}
    images: defaultdict[tuple[str, str], int] = defaultdict(int)
    lines = trace.read_text(encoding="utf-8").splitlines() if trace.is_file() else []
    for process, kind, place, number in (line.split(" ") for line in lines):
        if kind == "step":
            before, done = last.get(place, (process, 0))
            if before != process:
                steps.append(max(0, done - int(number) + 1))
            last[place] = (process, int(number))
        else:
            folder = "/".join(place.split("/")[:4])
            if seen.get(place, process) != process:
                images[folder, process] += 1
            seen[place] = process
    return {"steps": steps, "images": list(images.values())}


def report(text: str) -> None:
    """Print a line immediately."""
    print(text, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--subjects", default="dog,teapot,clock,can")
    parser.add_argument("--steps", type=int, default=24, help="of each training")
    parser.add_argument("--save-every", type=int, default=4, help="steps of training")
    parser.add_argument("--mean", type=float, default=2.5, help="seconds of work between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="working folder; default: a temporary one")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark/measurements/results/faults-kill.json"),
        help="the result",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
