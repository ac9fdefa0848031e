"""What is measured with the command `dbbench` itself: a run that is killed, several at once."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DBBENCH = (sys.executable, "-c", "from dbbench.cli import main; main()")
LIMIT = 1200  # seconds that one command may take


@dataclass
class Shop:
    """Where commands work, and the settings that make them short."""

    folder: Path
    device: str
    tiny: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, name: str, *more: str) -> list[str]:
        """Return `dbbench run` into a folder of that name, on subjects drawn by mini."""
        counts = {
            "backbone.resolution": "64" if self.tiny else "512",
            "methods.dreambooth.steps": "6" if self.tiny else "60",
            "methods.textual_inversion.steps": "4" if self.tiny else "60",
            "prior.count": "2" if self.tiny else "16",
            "prior.sampler.steps": "2" if self.tiny else "25",
            "sample.steps": "2" if self.tiny else "25",
            "sample.images_per_prompt": "1",
            "prompts.first": "2" if self.tiny else "10",
        }
        if self.tiny:
            counts |= {"encoders.dino": '"mini-dino"', "encoders.clip": '"mini-clip"'}
        settings = [part for key, value in counts.items() for part in ("--set", f"{key}={value}")]
        return [
            *DBBENCH, "run", "--suite", "paper", "--data", "mini",
            "--subjects", "dog" if self.tiny else "dog,backpack", "--device", self.device, "--out",
            str(self.folder / name), "--save-every", "2steps" if self.tiny else "20steps",
            *settings, *more,
        ]  # fmt: skip

    def call(self, name: str, *more: str) -> float:
        """Run it to its end; return the seconds. Raises RuntimeError with what it printed last."""
        began = time.perf_counter()
        self.finish(self.command(name, *more))
        return time.perf_counter() - began

    def finish(self, command: list[str]) -> str:
        """Run a command; return what it printed."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, check=False,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError((done.stderr or done.stdout).strip()[-800:])
        return done.stdout

    def files(self, name: str) -> dict[str, str]:
        """Return the hash of each artifact's file in a folder."""
        folder = self.folder / name
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for part in ("references", "prior", "runs", "features")
            for path in sorted((folder / part).rglob("*"))
            if path.is_file()
        }


def killed(shop: Shop) -> dict[str, Any]:
    """A run killed in the middle of a training and begun again makes the files of a whole one."""
    seconds = shop.call("whole")
    with subprocess.Popen(
        shop.command("killed"), env={**os.environ, **shop.environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        limit = time.monotonic() + LIMIT
        state = "runs/dreambooth/*/0/.checkpoint.partial/.training.json"
        pattern = (state, "runs/dreambooth/*/0/**/.training.json")
        while not any(list((shop.folder / "killed").glob(each)) for each in pattern):
            if process.poll() is not None or time.monotonic() > limit:
                break
            time.sleep(0.02)
        was_killed = process.poll() is None
        process.send_signal(signal.SIGKILL)
    again = shop.call("killed")
    ours, theirs = shop.files("killed"), shop.files("whole")
    other = sorted(
        name for name in theirs.keys() | ours.keys() if ours.get(name) != theirs.get(name)
    )
    said = shop.finish([*DBBENCH, "verify", str(shop.folder / "killed")])
    return {
        "whole_seconds": seconds, "again_seconds": again, "files": len(theirs),
        "different": len(other), "first_different": other[:3], "was_killed": was_killed,
        "verify": said.strip().splitlines()[-1], "ok": was_killed and not other,
    }  # fmt: skip


def jobs(shop: Shop) -> dict[str, Any]:
    """Several runs at once on one card, each with its share of the memory."""
    count = "2" if shop.tiny else "4"
    seconds = shop.call("jobs", "--jobs-per-device", count, "--seeds", "0,1")
    return {"jobs": int(count), "seconds_of_all": seconds}


def together(shop: Shop) -> dict[str, Any]:
    """Subjects trained side by side in one process."""
    methods = ("--methods", "textual_inversion")
    return {
        "seconds_of_all": shop.call(
            "together", *methods, "--subjects", "dog,backpack", "--together", "2"
        )
    }


def compiled(shop: Shop) -> dict[str, Any]:
    """The compiled denoiser, for whole weights and for adapters."""
    if shop.tiny:
        return {"skipped": "takes minutes on a CPU"}
    setting = ("--set", "backbone.compile=true", "--methods")
    methods = ("dreambooth", "dreambooth_lora")
    more = (
        "--set",
        "methods.dreambooth_lora.steps=60",
        "--set",
        "methods.dreambooth_lora.identifier=sks",
    )
    return {name: shop.call(f"compiled-{name}", *more, *setting, name) for name in methods}


COMMANDS: dict[str, Callable[[Shop], dict[str, Any]]] = {
    "killed": killed,
    "jobs": jobs,
    "together": together,
    "compiled": compiled,
}
