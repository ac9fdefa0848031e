from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dbbench.storage import leases as leases_module
from dbbench.storage.leases import Leases, running

FAST: dict[str, float] = {"beat": 0.05, "patience": 0.5}


def elsewhere(out: Path, name: str) -> None:
    """Make the holder of a lease one of another machine, whose end nobody can see."""
    for path in (out / ".leases").glob(f"{name}*"):
        first, _, rest = path.read_bytes().partition(b"\n")
        path.write_bytes(json.dumps(json.loads(first) | {"machine": "m"}).encode() + b"\n" + rest)


def test_a_lease_is_given_to_one_and_then_to_the_next(tmp_path: Path) -> None:
    with Leases(tmp_path) as one, Leases(tmp_path) as two:
        held = one.take("train x/y")
        assert held is not None
        assert two.take("train x/y") is None
        assert two.take("train other") is not None
        assert running(tmp_path)["train x/y"].startswith(f"process {os.getpid()} on ")
        one.release(held)
        assert two.take("train x/y") is not None
    assert not (tmp_path / ".leases").exists()


def test_a_holder_on_another_machine_is_dead_when_its_number_stands_still(tmp_path: Path) -> None:
    silent, watcher = Leases(tmp_path, beat=60), Leases(tmp_path, **FAST)
    held = silent.take("x")
    assert held is not None
    elsewhere(tmp_path, "x")
    begin = time.monotonic()
    while (taken := watcher.take("x")) is None:
        time.sleep(0.01)
    assert 0.5 <= time.monotonic() - begin < 5
    assert held.lost
    # The one that was only slow can neither free the name nor take it back.
    silent.release(held)
    assert watcher.holder("x") is not None
    assert Leases(tmp_path).take("x") is None
    watcher.release(taken)
    assert Leases(tmp_path).take("x") is not None


def test_a_holder_whose_number_rises_is_not_taken_for_dead(tmp_path: Path) -> None:
    with Leases(tmp_path, **FAST) as one, Leases(tmp_path, **FAST) as two:
        assert one.take("x") is not None
        elsewhere(tmp_path, "x")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert two.take("x") is None
            time.sleep(0.01)


def test_a_lease_whose_content_was_lost_is_taken_over(tmp_path: Path) -> None:
    Leases(tmp_path).take("x")
    (tmp_path / ".leases" / "x").write_bytes(b"")
    with Leases(tmp_path, **FAST) as leases:
        assert leases.take("x") is None
        time.sleep(0.6)
        assert leases.take("x") is not None
    assert not (tmp_path / ".leases").exists()


def test_a_folder_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(leases_module.os, "link", refuse)
    with Leases(tmp_path) as one, Leases(tmp_path) as two:
        held = one.take("x")
        assert held is not None
        assert two.take("x") is None
        one.release(held)
        assert two.take("x") is not None


def compete(out: Path, number: int, rounds: int) -> None:
    """Take a lease again and again; note when it was had; die with it now and then."""
    leases = Leases(out, **FAST)
    for turn in range(rounds):
        while leases.take("x") is None:
            time.sleep(0.001)
        inside = out / "inside"
        inside.touch(exist_ok=False)  # Raises where another holds the lease too.
        with (out / "log").open("a") as log:
            log.write(f"{number} {turn}\n")
        time.sleep(0.002)
        inside.unlink()
        if turn == rounds - 1 and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        leases.release(leases._held["x"])


def test_of_several_processes_one_holds_it_even_where_holders_are_killed(tmp_path: Path) -> None:
    context: Any = multiprocessing.get_context("fork")
    processes = [context.Process(target=compete, args=(tmp_path, n, 25)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -9] * 3
    assert len((tmp_path / "log").read_text().splitlines()) == 6 * 25
    with Leases(tmp_path):
        pass
    assert not (tmp_path / ".leases").exists()
