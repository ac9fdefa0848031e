"""Claims about --jobs-per-device: processes that are killed, with real processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from harness import (  # noqa: F401
    contents,
    installed,
    kill_at,
    leftovers,
    plugin_folder,
    run,
    suite,
    suite_file,
)
from rich.console import Console

from dbbench.cli.status import print_status
from dbbench.planning.task import Task
from dbbench.running.executors.local import Local
from dbbench.running.executors.processes import in_order
from dbbench.storage.events import EventLog
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

PAUSES = ("methods.tinted.pause=0.2", "methods.plain.pause=0.2")


def test_the_first_runs_each_make_other_class_images() -> None:
    def train(method: str, subject: str, *needs: str) -> Task:
        run = Run(method, subject, 0)
        return Task("train", str(run), (), run, subject, needs=needs)

    tasks = [
        Task("prior", "dog", ()),
        Task("prior", "cat", ()),
        train("dreambooth", "dog", "references dog", "prior dog"),
        train("dreambooth", "dog2", "prior dog"),
        train("textual_inversion", "dog"),
        train("dreambooth", "cat", "prior cat"),
        train("dreambooth", "can", "prior can"),  # Its class images are there.
    ]
    assert [str(run) for run in in_order(tasks)] == [
        "dreambooth/dog/0",
        "dreambooth/cat/0",
        "textual_inversion/dog/0",
        "dreambooth/can/0",
        "dreambooth/dog2/0",
    ]


def test_class_images_that_cannot_be_made_stop_the_runs_that_need_them_alone(
    tmp_path: Path, suite: Suite, plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(plugin_folder))
    steps = "prior.sampler.steps=2000"  # Of a thousand that there are.
    outcome = run(suite, tmp_path, steps, seeds=[0, 1], executor=Local(2))
    assert sorted(f.task.key for f in outcome.failures) == ["prior can", "prior dog"]
    events = [(e["name"], e["status"]) for e in EventLog(tmp_path).read() if e["stage"] == "train"]
    assert sorted(events) == [
        (f"{method}/{subject}/{seed}", status)
        for method, status in (("plain", "done"), ("tinted", "failed"))
        for subject in ("can", "dog")
        for seed in (0, 1)
    ]


@pytest.mark.slow
def test_a_process_that_is_killed_costs_no_other_run_anything(
    tmp_path: Path, suite: Suite, plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(plugin_folder))
    out, said = tmp_path / "killed", io.StringIO()
    once = kill_at(out, "train plain/dog/0")
    always = kill_at(out, "train tinted/can/0", times=2)
    outcome = run(suite, out, *PAUSES, executor=Local(2), console=Console(file=said, width=200))
    for killer in (once, always):
        killer.join(1)
        assert not killer.is_alive()
    (failure,) = outcome.failures
    assert (failure.task.key, failure.log.is_file()) == ("train tinted/can/0", True)
    assert failure.reason.startswith("its process ended with exit code -9; try fewer")
    assert "train plain/dog/0: its process ended with exit code -9; again" in said.getvalue()
    events = [(e["name"], e["status"]) for e in EventLog(out).read() if e["stage"] == "train"]
    assert sorted(events) == [
        ("plain/can/0", "done"),
        ("plain/dog/0", "done"),
        ("plain/dog/0", "retried"),
        ("tinted/can/0", "failed"),
        ("tinted/can/0", "retried"),
        ("tinted/dog/0", "done"),
    ]
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        print_status(out, console)
    assert "3 of 4 runs finished" in capture.get()
    assert "failed: its process ended with exit code -9" in capture.get()

    assert not run(suite, out, *PAUSES).failures
    run(suite, tmp_path / "alone", *PAUSES)
    assert contents(out) == contents(tmp_path / "alone")
    assert not leftovers(out)


@pytest.mark.slow
def test_a_process_that_is_killed_before_it_has_begun_is_replaced(
    tmp_path: Path, suite: Suite, plugin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(plugin_folder))

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.005)
        assert children[0].pid is not None
        os.kill(children[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = run(suite, tmp_path, methods=["plain"], executor=Local(2))
    killer.join(1)
    assert not outcome.failures
    assert [e["status"] for e in EventLog(tmp_path).read() if e.get("status") == "retried"]
