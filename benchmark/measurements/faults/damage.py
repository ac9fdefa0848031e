"""Injects random damage, repeats the command, and checks that no score is ever wrong.

    python benchmark/measurements/faults/damage.py --times 40 \\
        --out benchmark/measurements/results/faults-damage.json

Kinds of damage: a truncated file, a flipped bit, a deleted manifest, a read-only folder, a full
disk; in a finished run, in an unfinished run, and during a run. After it, every score must equal
that of an undamaged run or be missing, and the output must end with a readable message. With the
disk repaired, the same command must produce the same files as an undamaged run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import Job, bare_traceback, dbbench, differences, hashes, left_behind, write_result

KINDS = ("truncate", "flip", "manifest", "read-only", "full disk")
WHEN = ("finished", "half finished", "running")


@dataclass
class World:
    """One undamaged run, and the folder for copies of it."""

    job: Job
    work: Path
    whole: dict[str, str]
    draw: random.Random
    seconds: float
    """Duration of the undamaged run, including the import of libraries."""

    def copy(self) -> Path:
        """Return a fresh copy of the run, with a copy of its feature cache."""
        out, cache = self.work / "out", self.work / "cache"
        for folder, source in ((out, "whole"), (cache, "cache-whole")):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.work / source, folder)
        return out


def main() -> int:
    """Damage, call, compare, write; return 1 if anything was wrong."""
    options = _options()
    work = Path(options.work or tempfile.mkdtemp(prefix="faults-"))
    job = Job(options.subjects, options.steps, options.save_every)
    work.mkdir(parents=True, exist_ok=True)
    result = damage_again_and_again(job, work, options.times, options.seed)
    write_result(options.out, result)
    print(f"{'good' if result['good'] else 'BAD'}: {options.out}")
    if not options.work:
        shutil.rmtree(work)
    return 0 if result["good"] else 1


def damage_again_and_again(job: Job, work: Path, times: int, seed: int) -> dict[str, Any]:
    """Return the result of `times` injections, each kind and moment in turn."""
    begun = time.monotonic()
    code, output = dbbench(work, job.arguments(work / "whole"))
    assert code == 0, output
    # The copies have another path, and nothing may depend on it.
    (work / "cache").rename(work / "cache-whole")
    took = time.monotonic() - begun
    world = World(job, work, hashes(work / "whole"), random.Random(seed), took)
    cases: list[dict[str, Any]] = []
    for number in range(times):
        kind, when = KINDS[number % len(KINDS)], WHEN[number // len(KINDS) % len(WHEN)]
        case = _one(world, kind, when)
        cases.append(case)
        print(f"{number + 1}/{times} {json.dumps(case)}", flush=True)
    wrong = [f"{c['kind']}, {c['when']}, {c['where']}: {w}" for c in cases for w in c["wrong"]]
    return {
        "what": "damage at random, then the same command, then the same on a disk in order",
        "job": asdict(job),
        "seed": seed,
        "injections": dict(Counter(f"{case['kind']}, {case['when']}" for case in cases)),
        "exit codes of the command after it": dict(Counter(str(c["code"]) for c in cases)),
        "how the full disk was made": "a small tmpfs" if _can_mount() else "a limit on file sizes",
        "last lines": sorted({case["said"] for case in cases if case["code"]}),
        "wrong": wrong,
        "seconds": round(time.monotonic() - begun, 1),
        "good": not wrong,
    }


def _one(world: World, kind: str, when: str) -> dict[str, Any]:
    """Damage one copy and call the command on it, then repair it and call again."""
    out, wrong = world.copy(), []
    if when != "finished" or kind in {"read-only", "full disk"}:
        _undo_some(world, out)
    command = world.job.arguments(out)
    with _injection(world, kind, when, out) as (hit, options):
        code, output = dbbench(world.work, command, **options)
    where = hit[0] if hit else "nothing: it was too late"
    if code not in (0, 1, 2):
        wrong.append(f"exit code {code}")
    if bare_traceback(output):
        wrong.append(f"a traceback without a sentence: {output[-300:]}")
    if kind in {"flip", "truncate"} and when == "finished" and where.startswith("runs/"):
        # The file is not read, so it may go unnoticed; verify must detect it.
        found, _ = dbbench(world.work, ["verify", str(out)])
        if code == 0 and found != 1 and _differs(world, out, where):
            wrong.append(f"verify did not see it (exit code {found})")
    wrong += [f"a wrong {name}" for name in _wrong_scores(world, out, code, where)]
    wrong += _heal(world, out, output, command)
    last = output.strip().splitlines()[-1] if output.strip() else ""
    last = last.replace(str(world.work), "WORK")
    return {
        "kind": kind, "when": when, "where": where, "code": code,
        "said": last if code else "", "wrong": wrong,
    }  # fmt: skip


def _heal(world: World, out: Path, output: str, command: list[str]) -> list[str]:
    """Follow the advice of the message, and call again; return what is still wrong."""
    if f"{out / 'suite.json'}" in output and "remove that file" in output:
        (out / "suite.json").unlink()
    dbbench(world.work, ["verify", str(out)])
    code, again = dbbench(world.work, command)
    if code:
        return [f"not repaired: exit code {code}, {again[-300:]}"]
    wrong = [f"{name} differs" for name in differences(out, world.whole)]
    wrong += [f"{name} left behind" for name in left_behind(out)]
    code, again = dbbench(world.work, ["verify", str(out)])
    return wrong + ([f"verify still finds a problem: {again[-300:]}"] if code else [])


def _undo_some(world: World, out: Path) -> None:
    """Remove some artifacts, as in an unfinished run; always the scores."""
    (out / "scores.json").unlink()
    artifacts = sorted(path.parent for path in out.glob("runs/**/manifest.json"))
    for folder in world.draw.sample(artifacts, k=len(artifacts) // 3):
        # A missing checkpoint has no effect alone: it is only needed for new samples.
        gone = [folder] if folder.name != "checkpoint" else sorted(folder.parent.iterdir())
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)


def _wrong_scores(world: World, out: Path, code: int, where: str) -> Iterator[str]:
    """Yield the tables whose content is wrong.

    After a success they must equal those of the undamaged run. After a failure, a table may lack
    runs, or be the damaged file itself, because every command detects that on reading.
    """
    for name in ("scores.parquet", "leaderboard.csv"):
        path = out / name
        if not path.is_file():
            continue
        same = not _differs(world, out, name)
        if code == 0 and not same:
            yield name
        if code and not same and name == "scores.parquet" and where != name:
            import pandas as pd

            key = ["method", "subject", "seed", "prompt", "image", "metric", "value"]
            whole = pd.read_parquet(world.work / "whole" / name)[key].astype(str)
            here = pd.read_parquet(path)[key].astype(str)
            if len(here.merge(whole, on=key)) != len(here):
                yield name


def _differs(world: World, out: Path, name: str) -> bool:
    return hashes(out).get(name) != world.whole.get(name)


@contextmanager
def _injection(
    world: World, kind: str, when: str, out: Path
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Inject damage now, or while the command inside this context is running."""
    if kind == "read-only":
        with _read_only(out):
            yield ["all"], {}
    elif kind == "full disk":
        with _full_disk(world, out) as options:
            yield ["all"], options
    elif when != "running":
        yield [_damage(world, kind, out)], {}
    else:
        hit: list[str] = []
        delay = world.draw.uniform(0.0, 0.4) * world.seconds
        timer = threading.Timer(delay, lambda: hit.append(_damage(world, kind, out)))
        timer.start()
        yield hit, {}
        timer.cancel()
        timer.join()


def _damage(world: World, kind: str, out: Path) -> str:
    """Damage one file; return its path."""
    path = _choose(world.draw, out, world.work / "cache", manifests=kind == "manifest")
    try:
        content = bytearray(path.read_bytes())
        if kind == "manifest":
            path.unlink()
        elif kind == "truncate":
            path.write_bytes(content[: world.draw.randrange(max(len(content), 1))])
        elif content:
            content[world.draw.randrange(len(content))] ^= 1 << world.draw.randrange(8)
            path.write_bytes(content)
    except FileNotFoundError:
        return "gone already"
    inside = out if path.is_relative_to(out) else world.work
    return path.relative_to(inside).as_posix()


def _choose(draw: random.Random, out: Path, cache: Path, *, manifests: bool) -> Path:
    """Choose a file: first its kind at random, because nearly all files are pictures."""
    by_kind: dict[str, list[Path]] = {}
    for folder, _, names in sorted([*os.walk(out), *os.walk(cache)]):
        for name in sorted(names):
            path = Path(folder, name)
            if manifests and name not in {"manifest.json", "scores.json", "suite.json"}:
                continue
            if path.parent.name != ".leases":
                kind = path.suffix if path.suffix == ".png" else f"{path.parent.name} {path.suffix}"
                by_kind.setdefault(kind, []).append(path)
    return draw.choice(by_kind[draw.choice(sorted(by_kind))])


@contextmanager
def _read_only(out: Path) -> Iterator[None]:
    if _can_mount():
        subprocess.run(["mount", "--bind", out, out], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", out], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", out], check=True)
        return
    for path in (out, *out.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        yield
    finally:
        for path in (out, *out.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)


@contextmanager
def _full_disk(world: World, out: Path) -> Iterator[dict[str, Any]]:
    """Give the run a disk that gets full after some more files."""
    if not _can_mount():
        most = world.draw.choice([2_000, 20_000, 200_000])
        yield {"limit": most}
        return
    moved = out.with_name("moved")
    out.rename(moved)
    out.mkdir()
    size = sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in moved.rglob("*") if p.is_file())
    # dbbench requires 64 MB of free space before it starts.
    room = size + 64 * 2**20 + world.draw.randrange(40 * 2**20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", out], check=True)
    try:
        shutil.copytree(moved, out, dirs_exist_ok=True)
        filler = out / "filler"
        stop = threading.Event()
        late = world.draw.uniform(0.0, 12.0)
        thread = threading.Thread(target=_fill, args=(filler, late, stop, world.draw.random()))
        thread.start()
        yield {}
        stop.set()
        thread.join()
        filler.unlink(missing_ok=True)
        shutil.rmtree(moved)
        shutil.copytree(out, moved)
    finally:
        subprocess.run(["umount", out], check=True)
        out.rmdir()
        moved.rename(out)


def _fill(path: Path, late: float, stop: threading.Event, part: float) -> None:
    """Fill the disk after some seconds, except for a few pages, as another program could."""
    if stop.wait(late):
        return
    free = shutil.disk_usage(path.parent).free
    try:
        with path.open("wb") as stream:
            stream.write(b"\0" * max(0, free - int(part * 400_000)))
    except OSError:
        return


def _can_mount() -> bool:
    """Whether this process may mount file systems."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "none", folder], check=False, capture_output=True
        )
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return tried.returncode == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--subjects", default="dog,teapot")
    parser.add_argument("--steps", type=int, default=8, help="of each training")
    parser.add_argument("--save-every", type=int, default=3, help="steps of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="working folder; default: a temporary one")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark/measurements/results/faults-damage.json"),
        help="the result",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
