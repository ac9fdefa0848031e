"""Measures time and memory of scoring 100,000 small images on a cluster.

    python benchmark/measurements/scale/images.py --images 100000 \\
        --out benchmark/measurements/results/scale-images.json

The images come from a method without cost (shifted.py). Encoding, scoring and the report are those
of mini, on a Ray cluster of this machine. Memory is the peak resident size of each process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from dbbench.mini.source import MiniWorld
from dbbench.planning.request import Request
from dbbench.plugins import add_method_file
from dbbench.reports import write_report
from dbbench.running.executors.ray_driver import connected
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.storage.events import EventLog
from dbbench.suites.runs import plan_runs
from dbbench.suites.suite import load_suite

IMAGES_A_RUN = 100
METHOD = f"{Path(__file__).resolve().parent / 'shifted.py'}:Shifted"


def main() -> None:
    """Measure, and write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    os.environ["DBBENCH_CACHE"] = str(folder / "cache")
    name = add_method_file(METHOD)
    suite = load_suite("mini").model_copy(
        update={"methods": {name: {}}, "method_files": {name: METHOD}, "train": {}}
    )
    subjects = [subject.name for subject in MiniWorld().subjects]
    seeds = list(range(math.ceil(options.images / IMAGES_A_RUN / len(subjects))))
    runs = plan_runs(suite, subjects, [name], seeds)
    console = Console(stderr=True, width=160)
    cpus = max(1, os.cpu_count() or 1) / options.workers
    with connected("local", cpus, memory="1GB") as cluster, Watch() as watch:
        begun = time.monotonic()
        outcome = execute(
            Request(suite, folder / "out", MiniWorld(), runs),
            options=RunOptions("cpu"), console=console, publish=write_report, executor=cluster,
        )  # fmt: skip
        seconds = time.monotonic() - begun
    assert not outcome.failures, outcome.failures[:3]
    document = {
        "images": len(runs) * IMAGES_A_RUN,
        "runs": len(runs),
        "tasks": outcome.done,
        "seconds": round(seconds, 1),
        "stages": _stages(folder / "out"),
        "peak_rss_bytes": watch.peaks,
        "cpu_seconds": watch.cpu_seconds,
        "score_table_bytes": (folder / "out" / "scores.parquet").stat().st_size,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


def _stages(out: Path) -> dict[str, Any]:
    """Return for each stage the count of its items, and the seconds of all workers."""
    counts: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for event in EventLog(out).read():
        if event.get("status") == "done":
            row = counts[event["stage"]]
            row[0] += event.get("images", event.get("steps", 0))
            row[1] += event["seconds"]
            row[2] = max(row[2], event.get("peak_rss_bytes") or 0)
    return {
        stage: {"images": int(n), "seconds": round(seconds, 1), "peak_rss_bytes": int(peak)}
        for stage, (n, seconds, peak) in counts.items()
    }


class Watch:
    """Records peak memory and CPU time of this process and of Ray's, five times a second.

    On a busy machine, CPU time is more reliable than wall time.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._cpu: dict[int, tuple[str, float]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of the driver, and of all the other processes together."""
        found = {"driver": 0.0, "others": 0.0}
        for kind, seconds in self._cpu.values():
            found["driver" if kind == "driver" else "others"] += seconds
        return {kind: round(seconds, 1) for kind, seconds in found.items()}

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.2):
            for process in [me, *me.children(recursive=True)]:
                try:
                    kind = "driver" if process == me else process.name()
                    size = process.memory_info().rss
                    self._cpu[process.pid] = (kind, sum(process.cpu_times()[:2]))
                except psutil.Error:
                    continue
                self.peaks[kind] = max(self.peaks.get(kind, 0), size)


if __name__ == "__main__":
    main()
