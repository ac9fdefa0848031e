"""Draw a study's pairs, balanced over subjects, prompts, methods, sides; `create` calls it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from dbbench.errors import UserError
from dbbench.seeds import stable_seed


@dataclass(frozen=True)
class StudySample:
    """One generated image of a run; `place` is the path of its file."""

    run: str
    method: str
    subject: str
    class_noun: str
    seed: int
    prompt: str
    text: str
    file: str
    place: str


Cell = tuple[str, str, str, str]
"""Subject, prompt, and two methods in alphabetical order; pairs are balanced over these."""


def draw_pairs(
    samples: Iterable[StudySample], count: int, *, seed: int
) -> list[tuple[StudySample, StudySample]]:
    """Return `count` different pairs (left, right) in random order.

    Cells of subject, prompt and two methods get equal numbers of pairs, up to one more. Those with
    one more are balanced over subjects, prompts and pairs of methods. For two methods, each is on
    the left in half of the pairs, up to one; within a subject, up to two. Raises UserError if there
    are fewer different pairs.
    """
    rng = np.random.default_rng(stable_seed("study pairs", seed))
    cells = _cells(samples)
    room = {cell: len(first) * len(second) for cell, (first, second) in cells.items()}
    if not cells:
        raise UserError(
            "no subject and prompt has samples of two methods; a study compares two or more"
        )
    if count > sum(room.values()):
        raise UserError(
            f"{count} pairs cannot be drawn, there are {sum(room.values())} different ones;"
            f" ask for fewer (--pairs {sum(room.values())}), or sample more images"
        )
    shares = _spread(room, count, rng)
    drawn: dict[tuple[str, str], list[tuple[StudySample, StudySample]]] = defaultdict(list)
    for cell, (first, second) in cells.items():
        drawn[cell[2:]] += _combine(first, second, shares[cell], rng)
    pairs = [pair for group in drawn.values() for pair in _sides(group, rng)]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _cells(
    samples: Iterable[StudySample],
) -> dict[Cell, tuple[list[StudySample], list[StudySample]]]:
    groups: dict[tuple[str, str], dict[str, list[StudySample]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for sample in samples:
        groups[sample.subject, sample.prompt][sample.method].append(sample)
    return {
        (subject, prompt, a, b): (methods[a], methods[b])
        for (subject, prompt), methods in groups.items()
        for a, b in combinations(sorted(methods), 2)
    }


def _spread(room: dict[Cell, int], count: int, rng: np.random.Generator) -> dict[Cell, int]:
    """Distribute `count` pairs one by one, each to the cell with the fewest pairs so far."""
    cells = list(room)
    capacity = np.array([room[cell] for cell in cells])
    given = np.zeros(len(cells), dtype=np.int64)
    # Of equal cells, take the one whose subject, prompt and methods have fewest; then at random.
    table = pd.DataFrame(cells, columns=["subject", "prompt", "first", "second"])
    keys = (["subject"], ["prompt"], ["first", "second"])
    groups = [table.groupby(key).ngroup().to_numpy() for key in keys]
    totals = [np.zeros(codes.max() + 1) for codes in groups]
    sizes = [np.bincount(codes) for codes in groups]
    chance = rng.permutation(len(cells))
    for _ in range(count):
        served = np.zeros(len(cells))
        for codes, total, size in zip(groups, totals, sizes, strict=True):
            served += (total / size)[codes]
        best = np.lexsort((chance, served, given, given >= capacity))[0]
        given[best] += 1
        for codes, total in zip(groups, totals, strict=True):
            total[codes[best]] += 1
    return dict(zip(cells, given.tolist(), strict=True))


def _combine(
    first: list[StudySample], second: list[StudySample], count: int, rng: np.random.Generator
) -> list[tuple[StudySample, StudySample]]:
    """Return `count` different combinations that use all images about equally often."""
    a = [first[i] for i in rng.permutation(len(first))]
    b = [second[i] for i in rng.permutation(len(second))]
    if len(a) < len(b):
        return [(y, x) for x, y in _combine(b, a, count, rng)]
    # Diagonals of the table a x b: each holds every a once.
    diagonals = [(x, b[(i + shift) % len(b)]) for shift in range(len(b)) for i, x in enumerate(a)]
    return diagonals[:count]


def _sides(
    group: list[tuple[StudySample, StudySample]], rng: np.random.Generator
) -> list[tuple[StudySample, StudySample]]:
    """Swap left and right in one of every two neighbours, sorted by subject and prompt."""
    group = sorted(group, key=lambda pair: (pair[0].subject, pair[0].prompt))
    swap = np.empty(len(group) + 1, dtype=bool)
    swap[0::2] = rng.random(len(swap[0::2])) < 0.5
    swap[1::2] = ~swap[0::2][: len(swap[1::2])]
    return [(b, a) if turned else (a, b) for (a, b), turned in zip(group, swap, strict=False)]
