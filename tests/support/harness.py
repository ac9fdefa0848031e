"""What the tests of suite, stages, executor, command and resumption share."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tinted_plugin
from rich.console import Console

from dbbench import plugins as plugin
from dbbench.data.dataset import load_dataset
from dbbench.planning.request import Request
from dbbench.reports import write_report
from dbbench.running.executors.local import Executor
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.running.session import Outcome
from dbbench.storage.leases import running
from dbbench.suites.runs import plan_runs
from dbbench.suites.suite import Suite, load_suite, override


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third party's package, installed into a folder."""
    return tinted_plugin.install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite on a random Stable Diffusion of 16 pixels."""
    import tiny_backbone

    folder = tmp_path_factory.mktemp("suite")
    backbone = tiny_backbone.write(folder / "backbone")
    path = folder / "tiny.toml"
    path.write_text(tinted_plugin.SUITE.format(backbone=backbone))
    return path


@pytest.fixture
def installed(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The third party's package, to be found by this process."""
    monkeypatch.syspath_prepend(plugin_folder)
    plugin._points.cache_clear()
    yield
    plugin._points.cache_clear()


@pytest.fixture
def suite(installed: None, suite_file: Path) -> Suite:
    return load_suite(suite_file)


def run(
    suite: Suite,
    out: Path,
    *settings: str,
    subjects: str = "dog,can",
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    console: Console | None = None,
    executor: Executor | None = None,
    together: int = 1,
) -> Outcome:
    """Do what `dbbench run` does."""
    chosen = override(suite, settings)
    runs = plan_runs(chosen, subjects.split(","), methods, seeds)
    return execute(
        Request(chosen, out, load_dataset(chosen.source), runs),
        options=RunOptions("cpu", together=together),
        publish=write_report,
        console=console or Console(quiet=True),
        executor=executor,
    )


def kill_at(out: Path, task: str, times: int = 1, once: str = "") -> threading.Thread:
    """`kill -9` whoever is at a task, such as "train plain/dog/0", so many times; join it.

    With `once`, not before a file of that pattern is there.
    """

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            holder = None if once and not list(out.glob(once)) else running(out).get(task)
            if holder is not None and (pid := int(holder.split()[1])) not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def contents(out: Path, *patterns: str) -> dict[str, str]:
    """Return the hash of each file that a pattern matches, by name."""
    patterns = patterns or ("references/**/*", "prior/**/*", "runs/**/*", "features/**/*")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(out.glob(pattern))
        if path.is_file()
    }


def leftovers(out: Path) -> list[Path]:
    """Return what only an interrupted call would leave."""
    kinds = {".partial", ".old", ".tmp", ".new"}
    return [p for p in out.rglob(".*") if p.suffix in kinds or p.name == ".leases"]


def written(out: Path) -> dict[str, int]:
    """Return the time at which each artifact was made."""
    manifests = sorted(out.rglob("manifest.json"))
    return {
        path.parent.relative_to(out).as_posix(): path.parent.stat().st_ctime_ns
        for path in manifests
    }


@dataclass
class Command:
    """`dbbench` in a process of its own."""

    process: Any
    output: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.is_file() else ""

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> int | None:
        """Wait for the end; return the exit code, -9 where it was killed."""
        self.process.join(600)
        return self.process.exitcode  # type: ignore[no-any-return]


def start(
    suite_file: Path, plugin_folder: Path, out: Path, *more: str, pause: float = 0.03
) -> Command:
    """Start `dbbench run`; each image takes a while.

    The processes come from a server that has loaded torch once; else that takes most of the time.
    """
    command = [
        "run", "--suite", suite_file, "--subjects", "dog,can", "--out", out, "--device", "cpu",
        "--set", f"methods.tinted.pause={pause}", "--set", f"methods.plain.pause={pause}", *more,
    ]  # fmt: skip
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dbbench.running.run",
            "dbbench.generation.backbone",
            "dbbench.mini.source",
            "dbbench.reports.page.render",
        ]
    )
    output = out.parent / f"{out.name}-{time.monotonic_ns()}.txt"
    arguments = ([str(part) for part in command], str(plugin_folder), output)
    process = context.Process(target=_command, args=arguments)
    process.start()
    return Command(process, output)


def _command(arguments: list[str], plugin_folder: str, output: Path) -> None:
    """Be the command, with what it prints in a file."""
    import torch

    from dbbench.cli import main

    torch.set_num_threads(1)
    sys.path.insert(0, plugin_folder)
    sys.argv = ["dbbench", *arguments]
    with output.open("w", buffering=1) as stream:
        sys.stdout = sys.stderr = stream
        main()


def wait_for(out: Path, pattern: str, command: Command) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + 600
    while not list(out.glob(pattern)):
        if not command.process.is_alive():
            raise AssertionError(f"ended before {pattern} was there: {command.said}")
        assert time.monotonic() < limit
        time.sleep(0.005)
