"""Assignments: which rater answers which pairs; the store calls it for admission and import."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from dbbench.seeds import stable_seed
from dbbench.study.answers.database import question_table, rater_table
from dbbench.study.design.study import Study


def assign_questions(study: Study, connection: sa.Connection, rater: str, now: int) -> int:
    """Assign questions to a rater, up to `questions_per_rater`; return how many they have then.

    Pairs with the fewest raters come first. So all pairs fill up evenly, and enough different pairs
    are left for the last rater.
    """
    table = question_table.c
    gone = sa.select(rater_table.c.id).where(rater_table.c.expires_at < now)
    connection.execute(
        sa.update(question_table)
        .where(table.slot.is_not(None) & table.choice.is_(None) & table.rater_id.in_(gone))
        .values(slot=None)
    )
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for pair_id, slot in taken_slots(connection):
        taken[pair_id].add(slot)
    free = {
        pair.id: next(n for n in range(study.raters_per_pair) if n not in taken[pair.id])
        for pair in study.pairs
        if len(taken[pair.id]) < study.raters_per_pair
    }
    rows = connection.execute(
        sa.select(table.pair_id, table.position, table.slot, table.choice, table.is_check)
        .where(table.rater_id == rater)
        .order_by(table.position)
    ).all()
    have = sum(1 for row in rows if row.slot is not None)
    for row in rows:
        if row.slot is None and not row.is_check and row.pair_id in free:
            connection.execute(
                sa.update(question_table)
                .where((table.rater_id == rater) & (table.pair_id == row.pair_id))
                .values(slot=free.pop(row.pair_id))
            )
            have += 1
    rng = random.Random(stable_seed("study order", study.seed, rater, len(rows)))
    seen = {row.pair_id for row in rows}
    fresh = [pair_id for pair_id in free if pair_id not in seen]
    rng.shuffle(fresh)
    fresh.sort(key=lambda pair_id: len(taken[pair_id]))
    chosen = fresh[: max(study.questions_per_rater - have, 0)]
    rng.shuffle(chosen)
    added: list[tuple[str, int | None]] = [(pair_id, free[pair_id]) for pair_id in chosen]
    if not rows and chosen:
        for check in rng.sample(study.checks, min(study.checks_per_rater, len(study.checks))):
            # Never first: raters learn the task with the first question.
            added.insert(rng.randint(1, len(added)), (check.id, None))
    first = max((row.position for row in rows), default=-1) + 1
    if added:
        connection.execute(
            sa.insert(question_table),
            [
                {
                    "rater_id": rater,
                    "pair_id": pair_id,
                    "position": position,
                    "slot": slot,
                    "is_check": slot is None,
                }
                for position, (pair_id, slot) in enumerate(added, first)
            ],
        )
    return have + len(chosen)


def taken_slots(connection: sa.Connection) -> list[tuple[str, int]]:
    """Return the pairs that are assigned or answered, each with the slot of its rater."""
    table = question_table.c
    query = sa.select(table.pair_id, table.slot).where(table.slot.is_not(None))
    return [(pair_id, slot) for pair_id, slot in connection.execute(query)]


def rows_of_import(
    study: Study,
    rows: Iterable[Mapping[str, Any]],
    present: set[tuple[str, str]],
    known: Container[str],
    slots: defaultdict[str, int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that `Store.add` inserts: raters, and their questions with the answers.

    `present` are the stored (rater, pair), `known` the stored raters, `slots` the first free slot
    of each pair.
    """
    positions: defaultdict[str, int] = defaultdict(int)
    raters: dict[str, dict[str, Any]] = {}
    questions: list[dict[str, Any]] = []
    for row in rows:
        rater, pair_id, at = row["rater"], row["pair"], row["answered_at"]
        if (rater, pair_id) in present or rater in known:
            raise ValueError(f"rater {rater} has answers here already (pair {pair_id})")
        present.add((rater, pair_id))
        origin = "simulated" if row["origin"] == "simulated" else "import"
        raters[rater] = {
            "id": rater,
            "origin": origin,
            "admitted_at": at,
            "expires_at": at,
            "finished_at": at,
        }
        check = study.by_id[pair_id].answer is not None
        questions.append(
            {
                "rater_id": rater,
                "pair_id": pair_id,
                "position": positions[rater],
                "slot": None if check else slots[pair_id],
                "is_check": check,
                "choice": row["choice"],
                "seconds": row["seconds"],
                "answered_at": at,
            }
        )
        positions[rater] += 1
        if not check:
            slots[pair_id] += 1
    return list(raters.values()), questions
