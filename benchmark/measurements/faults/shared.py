"""Shared by the fault tests: one small run of the embedded world, and comparison of two runs."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MADE = ("references/**/*", "prior/**/*", "runs/**/*", "features/**/*", "scores.parquet")
TABLES = ("leaderboard.csv", "leaderboard.md", "subjects.csv", "differences.csv")
LIBRARIES = [
    "dbbench.running.run",
    "dbbench.generation.backbone",
    "dbbench.mini.source",
    "dbbench.reports.page.render",
    "dbbench.evaluation.encoders.timm",
    "dbbench.evaluation.encoders.open_clip",
    "dbbench.baselines.dreambooth",
    "dbbench.baselines.textual_inversion",
    "dbbench.running.images",
    "scipy.stats",
]
LEFT_BEHIND = {".partial", ".old", ".tmp", ".new"}


@dataclass(frozen=True)
class Job:
    """The command that is called again and again."""

    subjects: str
    steps: int
    save_every: int
    """Training steps between two saves of the state."""

    def arguments(self, out: Path) -> list[str]:
        """Return the arguments of `dbbench`."""
        settings = {
            "train.steps": self.steps,
            "sample.steps": 2,
            "sample.images_per_prompt": 1,
            "prior.count": 8,
            "prior.sampler.steps": 2,
        }
        given = [f"--set={key}={value}" for key, value in settings.items()]
        return [
            "run", "--suite=mini", f"--subjects={self.subjects}", f"--out={out}", "--device=cpu",
            f"--save-every={self.save_every}steps", *given,
        ]  # fmt: skip


@dataclass
class Call:
    """One call of dbbench, in its own process."""

    process: Any
    output: Path

    @property
    def ended(self) -> bool:
        """Whether it has ended or was killed."""
        return not self.process.is_alive()

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.process.kill()

    def wait(self) -> tuple[int, str]:
        """Return its exit code (-9 if killed) and its output."""
        self.process.join()
        return int(self.process.exitcode), self.output.read_text(encoding="utf-8")


def begin(
    work: Path, arguments: Sequence[str], *, trace: Path | None = None, limit: int | None = None
) -> Call:
    """Start a call; `trace` is as in traced.py, `limit` is the largest size of a file in bytes.

    The process is forked from one with the libraries loaded, because loading them takes longer
    than such a short run.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    output = work / "said.txt"
    output.write_text("", encoding="utf-8")
    process = context.Process(
        target=_run_dbbench, args=(work, list(arguments), output, trace, limit)
    )
    process.start()
    return Call(process, output)


def dbbench(work: Path, arguments: Sequence[str], limit: int | None = None) -> tuple[int, str]:
    """Call dbbench; return its exit code and its output."""
    return begin(work, arguments, limit=limit).wait()


def _run_dbbench(
    work: Path, arguments: list[str], output: Path, trace: Path | None, limit: int | None
) -> None:
    import torch
    from traced import main, trace_into

    torch.set_num_threads(1)
    os.environ["DBBENCH_CACHE"] = str(work / "cache")
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if trace is not None:
        trace_into(trace)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = ["dbbench", *arguments]
    main()


def hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of artifacts, scores and leaderboard."""
    paths = [path for pattern in (*MADE, *TABLES) for path in sorted(out.glob(pattern))]
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def differences(out: Path, whole: dict[str, str]) -> list[str]:
    """Return the files in which a run differs from the uninterrupted one."""
    here = hashes(out)
    return sorted(name for name in here.keys() | whole.keys() if here.get(name) != whole.get(name))


def left_behind(out: Path) -> list[str]:
    """Return temporary files that are still there."""
    hidden = [p for p in out.rglob(".*") if p.suffix in LEFT_BEHIND or p.name == ".leases"]
    return sorted(path.relative_to(out).as_posix() for path in hidden)


def bare_traceback(output: str) -> bool:
    """Whether the output has a traceback without a message after it."""
    return "Traceback (most recent call last)" in output and not re.search(
        r"^(error:|unexpected error:)", output.split("Traceback")[-1], flags=re.MULTILINE
    )


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write the result, with the kind of machine."""
    machine = {"python": platform.python_version(), "system": platform.system()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"machine": machine}, indent=1) + "\n", encoding="utf-8")
