from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import platform
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest

from dbbench.storage import leases as leases_module
from dbbench.storage.artifact import Artifact
from dbbench.storage.leases import Leases, running

FAST: dict[str, float] = {"beat": 0.05, "patience": 0.5}
FORK: Any = multiprocessing.get_context("fork")


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
    processes = [FORK.Process(target=compete, args=(tmp_path, n, 25)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -9] * 3
    assert len((tmp_path / "log").read_text().splitlines()) == 6 * 25
    with Leases(tmp_path):
        pass
    assert not (tmp_path / ".leases").exists()


def be_like_a_share() -> None:
    """From here on, have the system refuse this process and its children what shares lack.

    NFS, SMB and 9p cannot exchange two names (renameat2); some have no hard links or no locks.
    The kernel refuses (seccomp), so that libraries meet it too. The numbers are x86-64's.
    """
    refused = {
        316: errno.EINVAL,  # renameat2: Python itself calls rename
        86: errno.EPERM,  # link
        265: errno.EPERM,  # linkat
        73: errno.ENOLCK,  # flock
    }
    rules = [(0x20, 0, 0, 0)]  # Load the number of the call.
    for number, error in refused.items():
        rules += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    rules += [(0x06, 0, 0, 0x7FFF0000)]  # Allow all others.
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    header = ctypes.create_string_buffer(struct.pack("@HP", len(rules), ctypes.addressof(program)))
    assert prctl(22, 2, header, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def in_a_process(share: bool, body: Callable[..., None], *given: Any) -> int:
    """Return the exit code of a process that does it, where wanted in a folder like a share."""

    def begin() -> None:
        if share:
            be_like_a_share()
        body(*given)

    process = FORK.Process(target=begin)
    process.start()
    process.join(60)
    process.kill()
    process.join()
    return int(process.exitcode)


linux = platform.system() == "Linux" and platform.machine() == "x86_64"
SHARES = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not linux, reason="numbers of Linux on x86-64")),
]


def take_and_stay(out: Path, taken: Any) -> None:
    held = Leases(out, **FAST).take("x")
    taken.send(held is not None)
    time.sleep(60)


def watch_a_holder_die(out: Path) -> None:
    mine, its = FORK.Pipe()
    holder = FORK.Process(target=take_and_stay, args=(out, its))
    holder.start()
    assert mine.recv()
    with Leases(out) as watcher:
        assert watcher.take("x") is None
        os.kill(holder.pid, signal.SIGKILL)
        begin = time.monotonic()
        while watcher.take("x") is None:
            assert time.monotonic() - begin < 5, "its patience is a minute"
            time.sleep(0.01)
        holder.join()  # Not before: a parent need not know yet that its child is dead.
    assert not (out / ".leases").exists()


@pytest.mark.parametrize("share", SHARES)
def test_a_holder_killed_on_this_machine_is_known_to_be_dead_at_once(
    tmp_path: Path, share: bool
) -> None:
    assert in_a_process(share, watch_a_holder_die, tmp_path) == 0


def make_and_be_late(out: Path, pipe: Any) -> None:
    """Make an artifact under a lease; stand still in the middle of it."""
    leases = Leases(out, **FAST)
    held = leases.take("x")
    assert held is not None
    late = False
    try:
        with Artifact(out / "made", {}).create() as folder:
            pipe.send("stop me")
            pipe.recv()
            (folder / "by").write_text("the late one")
    except OSError:
        late = True
    lost = held.lost
    leases.release(held)
    pipe.send((late, lost, leases.take("x") is None))


def take_over_from_the_late(out: Path) -> None:
    mine, its = FORK.Pipe()
    holder = FORK.Process(target=make_and_be_late, args=(out, its))
    holder.start()
    assert mine.recv() == "stop me"
    with Leases(out, **FAST) as watcher:
        assert watcher.take("x") is None
        os.kill(holder.pid, signal.SIGSTOP)
        begin = time.monotonic()
        while watcher.take("x") is None:
            assert time.monotonic() - begin < 10
            time.sleep(0.01)
        assert time.monotonic() - begin >= 0.4
        with Artifact(out / "made", {}).create() as folder:
            (folder / "by").write_text("the second")
        os.kill(holder.pid, signal.SIGCONT)
        mine.send("go on")
        assert mine.recv() == (True, True, True)
        holder.join()
        assert (out / "made" / "by").read_text() == "the second"
        assert watcher.holder("x") == running(out)["x"]
        assert Leases(out).take("x") is None
    assert not (out / ".leases").exists()


@pytest.mark.parametrize("share", SHARES)
def test_a_holder_that_stood_still_finds_its_lease_lost_and_replaces_nothing(
    tmp_path: Path, share: bool
) -> None:
    assert in_a_process(share, take_over_from_the_late, tmp_path) == 0


NAMES = [f"train plain/subject {n}/0" for n in range(200)]


def do_what_is_left(out: Path, number: int) -> None:
    """Do all that nobody has done, in an order of its own; number 2 is killed at it."""
    order = random.Random(number).sample(NAMES, len(NAMES))
    with Leases(out, **FAST) as leases:
        while order:
            for name in tuple(order):
                with leases.trying(name) as lease:
                    if lease is None:
                        continue
                    order.remove(name)
                    done = out / name.replace("/", "-")
                    if not done.exists():
                        time.sleep(0.001)
                        done.touch(exist_ok=False)  # Raises where another did it at once.
                        with (out / "log").open("a") as log:
                            log.write(f"{number}\n")
                    if number == 2 and len(order) == 150:
                        os.kill(os.getpid(), signal.SIGKILL)


def race(out: Path) -> None:
    processes = [FORK.Process(target=do_what_is_left, args=(out, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
    assert [process.exitcode for process in processes] == [0, 0, -9]
    said = (out / "log").read_text().split()
    assert len(said) == len(NAMES)
    assert set(said) == {"0", "1", "2"}
    assert not (out / ".leases").exists()


@pytest.mark.parametrize("share", SHARES)
def test_of_200_names_none_is_done_twice_and_none_is_left(tmp_path: Path, share: bool) -> None:
    assert in_a_process(share, race, tmp_path) == 0


def take_without_pause(out: Path, begun: Any) -> None:
    leases = Leases(out, **FAST)
    begun.set()
    while True:
        with leases.trying("x"):
            pass


def test_a_kill_in_the_midst_of_taking_or_giving_back_blocks_no_name(tmp_path: Path) -> None:
    draw = random.Random(0)
    for turn in range(40):
        out, begun = tmp_path / str(turn), FORK.Event()
        process = FORK.Process(target=take_without_pause, args=(out, begun))
        process.start()
        begun.wait()
        time.sleep(draw.uniform(0.001, 0.02))
        process.kill()
        process.join()
        with Leases(out, **FAST) as leases, leases.hold("x", lambda _: None):
            pass
        assert not (out / ".leases").exists()


def take_after_a_kill_with_filelock(path: Path) -> None:
    lease = filelock.SoftFileLease(path, lease_duration=0.3)
    mine, its = FORK.Pipe()
    holder = FORK.Process(target=hold_with_filelock, args=(path, its))
    holder.start()
    assert mine.recv()
    holder.kill()
    holder.join()
    lease.acquire(timeout=2)


def hold_with_filelock(path: Path, taken: Any) -> None:
    lease = filelock.SoftFileLease(path, lease_duration=0.3)
    lease.acquire()
    taken.send(lease.is_locked)
    time.sleep(60)


@pytest.mark.skipif(not linux, reason="numbers of Linux on x86-64")
@pytest.mark.slow
def test_filelock_still_cannot_carry_our_leases(tmp_path: Path) -> None:
    """Two reasons why leases.py is not made of SoftFileLease; where this fails, reconsider it."""
    assert in_a_process(False, take_after_a_kill_with_filelock, tmp_path / "x") == 0
    assert in_a_process(True, take_after_a_kill_with_filelock, tmp_path / "y") != 0
    (tmp_path / "z").touch()  # As a kill between making the file and writing into it leaves it.
    with pytest.raises(filelock.Timeout):
        filelock.SoftFileLease(tmp_path / "z", lease_duration=0.3).acquire(timeout=3)
