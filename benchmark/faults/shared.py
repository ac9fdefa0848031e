"""What the fault tests share: one small run of the embedded world, and how two are compared."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MADE = ("references/**/*", "prior/**/*", "runs/**/*", "features/**/*", "scores.parquet")
TABLES = ("leaderboard.csv", "leaderboard.md", "subjects.csv", "differences.csv")
LEFT_BEHIND = {".partial", ".old", ".tmp", ".new"}


@dataclass(frozen=True)
class Job:
    """The command that is called again and again."""

    subjects: str
    steps: int
    save_every: int
    """Steps of training between two states that are kept."""

    def arguments(self, out: Path) -> list[str]:
        """Return the words after `dbbench`."""
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


def environment(work: Path) -> dict[str, str]:
    """Return the environment of a command: one thread, and features kept in `work` alone."""
    return os.environ | {"DBBENCH_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}


def dbbench(work: Path, arguments: Sequence[str], **options: Any) -> tuple[int, str]:
    """Call dbbench; return its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from dbbench.cli import main; main()", *arguments],
        env=environment(work), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, **options,
    )  # fmt: skip
    return done.returncode, done.stdout


def hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every artifact's files, of the scores and of the leaderboard."""
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
    """Return what is temporary and still there."""
    hidden = [p for p in out.rglob(".*") if p.suffix in LEFT_BEHIND or p.name == ".leases"]
    return sorted(path.relative_to(out).as_posix() for path in hidden)


def bare_traceback(said: str) -> bool:
    """Whether there is a traceback and no sentence at its end that says what to do."""
    return "Traceback (most recent call last)" in said and not re.search(
        r"^(error:|dbbench failed in a way)", said.split("Traceback")[-1], flags=re.MULTILINE
    )


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write what was measured, and on what kind of machine."""
    machine = {"python": platform.python_version(), "system": platform.system()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"machine": machine}, indent=1) + "\n", encoding="utf-8")
