"""Damage at random, each followed by the same command: is there ever a wrong score?

    python benchmark/measurements/faults/damage.py --times 40 \\
        --out benchmark/measurements/results/faults-damage.json

A truncated file, a flipped byte, a deleted manifest, a folder that cannot be written, a full disk;
in a run that is finished, in one that is not, and while it is running. Afterwards every score has
to be that of an undamaged run or missing, what was printed has to end in a sentence, and the same
command, on a disk that is in order again, has to give the very files of an undamaged run.
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
    """One undamaged run, and the place for copies of it."""

    job: Job
    work: Path
    whole: dict[str, str]
    draw: random.Random
    seconds: float
    """What the undamaged run took, with the libraries."""

    def copy(self) -> Path:
        """Return a fresh copy of the run, with a copy of the features that were kept."""
        out, cache = self.work / "out", self.work / "cache"
        for folder, source in ((out, "whole"), (cache, "cache-whole")):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.work / source, folder)
        return out


def main() -> int:
    """Damage, call, compare, write; return 1 where anything was wrong."""
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
    """Return what came of so many injections, each kind and moment in turn."""
    begun = time.monotonic()
    code, said = dbbench(work, job.arguments(work / "whole"))
    assert code == 0, said
    # The copies lie at another path, and nothing may depend on that.
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
    """Damage one copy and call the command on it, then heal it and call it again."""
    out, wrong = world.copy(), []
    if when != "finished" or kind in {"read-only", "full disk"}:
        _undo_some(world, out)
    command = world.job.arguments(out)
    with _injection(world, kind, when, out) as (hit, options):
        code, said = dbbench(world.work, command, **options)
    where = hit[0] if hit else "nothing: it was too late"
    if code not in (0, 1, 2):
        wrong.append(f"exit code {code}")
    if bare_traceback(said):
        wrong.append(f"a traceback without a sentence: {said[-300:]}")
    if kind in {"flip", "truncate"} and when == "finished" and where.startswith("runs/"):
        # It is not read, so it may go unnoticed; verify has to see it.
        found, _ = dbbench(world.work, ["verify", str(out)])
        if code == 0 and found != 1 and _differs(world, out, where):
            wrong.append(f"verify did not see it (exit code {found})")
    wrong += [f"a wrong {name}" for name in _wrong_scores(world, out, code, where)]
    wrong += _heal(world, out, said, command)
    last = said.strip().splitlines()[-1] if said.strip() else ""
    last = last.replace(str(world.work), "WORK")
    return {
        "kind": kind, "when": when, "where": where, "code": code,
        "said": last if code else "", "wrong": wrong,
    }  # fmt: skip


def _heal(world: World, out: Path, said: str, command: list[str]) -> list[str]:
    """Do what the message asks for, and call again; return what is still wrong."""
    if f"{out / 'suite.json'}" in said and "remove that file" in said:
        (out / "suite.json").unlink()
    dbbench(world.work, ["verify", str(out)])
    code, again = dbbench(world.work, command)
    if code:
        return [f"not mended: exit code {code}, {again[-300:]}"]
    wrong = [f"{name} differs" for name in differences(out, world.whole)]
    wrong += [f"{name} left behind" for name in left_behind(out)]
    code, again = dbbench(world.work, ["verify", str(out)])
    return wrong + ([f"verify is not content: {again[-300:]}"] if code else [])


def _undo_some(world: World, out: Path) -> None:
    """Take some artifacts away, as if the run had not come so far; always the scores."""
    (out / "scores.json").unlink()
    artifacts = sorted(path.parent for path in out.glob("runs/**/manifest.json"))
    for folder in world.draw.sample(artifacts, k=len(artifacts) // 3):
        # A checkpoint alone would not be missed: it is made again for new samples only.
        gone = [folder] if folder.name != "checkpoint" else sorted(folder.parent.iterdir())
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)


def _wrong_scores(world: World, out: Path, code: int, where: str) -> Iterator[str]:
    """Yield tables that say something else than those of an undamaged run.

    After a success they have to be the same. After a failure a table may lack runs, or be the very
    file that was damaged, which no command reads any more without noticing.
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
    """Damage something now, or while the command that is called inside is running."""
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
    """Damage one file; return which."""
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
    """Choose a file: kinds of files are as likely as each other, else nearly all are pictures."""
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
    """Give the run a disk that is full after some more files."""
    if not _can_mount():
        most = world.draw.choice([2_000, 20_000, 200_000])
        yield {"limit": most}
        return
    moved = out.with_name("moved")
    out.rename(moved)
    out.mkdir()
    size = sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in moved.rglob("*") if p.is_file())
    # dbbench itself asks for 64 MB of room before it begins.
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
    """Fill the disk after some seconds, as another program would, but for a few pages."""
    if stop.wait(late):
        return
    free = shutil.disk_usage(path.parent).free
    try:
        with path.open("wb") as stream:
            stream.write(b"\0" * max(0, free - int(part * 400_000)))
    except OSError:
        return


def _can_mount() -> bool:
    """Whether this process may mount: as root, with the right to."""
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
    parser.add_argument("--work", help="folder for what is made on the way; default: a new one")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmark/measurements/results/faults-damage.json"),
        help="the result",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
