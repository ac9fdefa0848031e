"""Training data of the embedded models: scenes, pictures and captions, none of the 30 subjects.

Sample i depends on SEED and i only, so a set can be extended or reproduced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from dbbench.mini.drawing.world import SIZE, Scene, caption, draw, draw_anywhere, draw_random_scene
from dbbench.mini.source import identities

CHUNK = 1000
SEED = 0


@cache
def _held_out() -> frozenset[tuple[str, str, str, str]]:
    return frozenset(identity.key for identity in identities().values())


def scene(index: int) -> Scene:
    """Return training scene `index`; the identities of the 30 subjects are excluded."""
    return draw_random_scene(np.random.default_rng([SEED, index]), held_out=_held_out())


def again(index: int) -> Scene:
    """Return another scene with the identity of scene `index`."""
    return draw_anywhere(scene(index).identity, np.random.default_rng([SEED, index, 2]))


def captions(index: int, count: int) -> list[str]:
    """Return `count` captions of scene `index`, each with its own choice of attributes."""
    rng = np.random.default_rng([SEED, index, 1])
    here = scene(index)
    return [caption(here, rng) for _ in range(count)]


def _render(start: int, *, of: Callable[[int], Scene]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(draw(of(i))) for i in range(start, start + CHUNK)])


def render(folder: Path, count: int, *, of: Callable[[int], Scene] = scene) -> NDArray[np.uint8]:
    """Return pictures 0..count of `scene` or `again` as a memory map (count, 64, 64, 3), uint8.

    Existing chunks are kept, so an interrupted rendering resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, CHUNK)
    todo = [s for s in starts if not (folder / f"{s:07d}.npy").exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = pool.map(partial(_render, of=of), todo)
        for start, pictures in track(
            zip(todo, chunks, strict=True), "drawing the world", total=len(todo)
        ):
            partial_file = folder / f"{start:07d}.part.npy"
            np.save(partial_file, pictures)
            partial_file.rename(folder / f"{start:07d}.npy")
    joined = folder / f"all-{count}.npy"
    if not joined.exists():
        out = np.lib.format.open_memmap(
            folder / "joining.npy", mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3)
        )
        for start in starts:
            out[start : start + CHUNK] = np.load(folder / f"{start:07d}.npy")[: count - start]
        out.flush()
        (folder / "joining.npy").rename(joined)
    loaded: NDArray[np.uint8] = np.load(joined, mmap_mode="r")
    return loaded
