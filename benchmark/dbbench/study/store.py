"""Who answers what: admission, leases and answers in the database; the pages call it."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import sqlalchemy as sa

from dbbench.errors import UserError
from dbbench.seed import stable_seed
from dbbench.study.database import Database, question_table, rater_table, study_table
from dbbench.study.study import Choice, Study


class Admission(Enum):
    """What became of a rater who agreed to take part."""

    ADMITTED = "admitted"
    FULL = "full"
    """The open link has admitted its quota."""
    NOTHING_FREE = "nothing free"
    """Every pair has its raters, or others are at work on what is left."""


class Outcome(Enum):
    """What became of an answer. Only KEPT has changed anything."""

    KEPT = "kept"
    SAME = "the same answer again"
    REPEATED = "another answer to a question that is answered already"
    FOREIGN = "a question that this rater was not asked"
    LOST = "a question that has gone to somebody else"


@dataclass(frozen=True)
class Item:
    """One question of a rater's questionnaire."""

    pair_id: str
    is_check: bool
    choice: Choice | None


@dataclass(frozen=True)
class Progress:
    """How far the study is."""

    raters: int
    finished: int
    answers: int
    """Without attention checks."""
    wanted: int
    complete_pairs: int
    simulated: bool


class Store:
    """One study's answers. Every method is one transaction; times are milliseconds since 1970."""

    def __init__(self, study: Study, database: Database) -> None:
        """Claim the database for the study. Raises UserError where it holds another's answers."""
        self.study, self.database = study, database
        with database.writing() as connection:
            known = connection.execute(sa.select(study_table.c.id)).scalars().all()
            if not known:
                connection.execute(sa.insert(study_table).values(id=study.id))
            elif known != [study.id]:
                raise UserError(
                    f"the database holds the answers of another study ({known[0]}, not {study.id});"
                    " give each study a database of its own: --database URL"
                )

    def admit(self, rater: str, origin: str, *, now: int | None = None) -> Admission:
        """Admit a rater and lease them their questions; a rater who is admitted stays so."""
        now = _now() if now is None else now
        with self.database.writing() as connection:
            self._lock(connection)
            if _lease(connection, rater) is not None:
                return Admission.ADMITTED
            if origin == "open" and self._admitted(connection, now) >= self.study.quota:
                return Admission.FULL
            connection.execute(
                sa.insert(rater_table).values(
                    id=rater, origin=origin, admitted_at=now, expires_at=self._lease(now)
                )
            )
            if not self._fill(connection, rater, now):
                connection.rollback()
                return Admission.NOTHING_FREE
        return Admission.ADMITTED

    def questionnaire(self, rater: str, *, now: int | None = None) -> list[Item] | None:
        """Return a rater's questions in order; None for somebody who was not admitted.

        Where their lease had run out they get again what nobody else has taken, and other questions
        for the rest.
        """
        now = _now() if now is None else now
        with self.database.reading() as connection:
            lease = _lease(connection, rater)
            if lease is None:
                return None
            items = _items(connection, rater)
        expires_at, finished_at = lease
        if expires_at >= now or finished_at is not None:
            return items
        with self.database.writing() as connection:
            self._lock(connection)
            self._fill(connection, rater, now)
            self._renew(connection, rater, now)
            return _items(connection, rater)

    def answer(
        self, rater: str, pair_id: str, choice: Choice, seconds: float, *, now: int | None = None
    ) -> Outcome:
        """Keep an answer; when this returns KEPT it is on the disk. Nothing is ever overwritten."""
        now = _now() if now is None else now
        table = question_table.c
        own = (table.rater_id == rater) & (table.pair_id == pair_id)
        open_ = table.choice.is_(None) & (table.slot.is_not(None) | table.is_check)
        with self.database.writing() as connection:
            kept = connection.execute(
                sa.update(question_table)
                .where(own & open_)
                .values(choice=choice, seconds=seconds, answered_at=now)
            ).rowcount
            if kept:
                self._renew(connection, rater, now)
                return Outcome.KEPT
            row = connection.execute(sa.select(table.choice).where(own)).one_or_none()
        if row is None:
            return Outcome.FOREIGN
        if row.choice is None:
            return Outcome.LOST
        return Outcome.SAME if row.choice == choice else Outcome.REPEATED

    def finish(self, rater: str, *, now: int | None = None) -> bool:
        """Note that a rater is through; False while a question of theirs is open."""
        with self.database.writing() as connection:
            items = _items(connection, rater)
            if not items or not all(item.choice for item in items):
                return False
            connection.execute(
                sa.update(rater_table)
                .where((rater_table.c.id == rater) & rater_table.c.finished_at.is_(None))
                .values(finished_at=_now() if now is None else now)
            )
        return True

    def progress(self) -> Progress:
        """Count raters, answers and complete pairs."""
        table, study = question_table.c, self.study
        given = sa.select(sa.func.count().label("raters")).where(
            table.choice.is_not(None) & ~table.is_check
        )
        by_pair = given.group_by(table.pair_id).subquery()
        complete = by_pair.c.raters >= study.raters_per_pair
        raters = rater_table.c
        with self.database.reading() as connection:
            return Progress(
                raters=_count(connection, sa.select(sa.func.count()).select_from(rater_table)),
                finished=_count(connection, sa.select(sa.func.count(raters.finished_at))),
                answers=_count(connection, given),
                wanted=len(study.pairs) * study.raters_per_pair,
                complete_pairs=_count(
                    connection, sa.select(sa.func.count()).select_from(by_pair).where(complete)
                ),
                simulated=bool(
                    _count(
                        connection, sa.select(sa.func.count()).where(raters.origin == "simulated")
                    )
                ),
            )

    def raters(self) -> list[dict[str, Any]]:
        """Return every rater with the number of their answers, in order of admission."""
        table, raters = question_table.c, rater_table.c
        given = (
            sa.select(table.rater_id, sa.func.count(table.choice).label("answers"))
            .group_by(table.rater_id)
            .subquery()
        )
        query = (
            sa.select(rater_table, given.c.answers)
            .join(given, given.c.rater_id == raters.id)
            .order_by(raters.admitted_at, raters.id)
        )
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def answers(self) -> list[dict[str, Any]]:
        """Return every answer in the order they were given, attention checks among them."""
        table = question_table.c
        query = (
            sa.select(
                table.rater_id.label("rater"),
                table.pair_id.label("pair"),
                table.choice,
                table.seconds,
                table.answered_at,
                rater_table.c.origin,
            )
            .join(rater_table, rater_table.c.id == table.rater_id)
            .where(table.choice.is_not(None))
            .order_by(table.answered_at, table.rater_id, table.position)
        )
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Add answers that were given elsewhere, all or none; return how many.

        Each row has rater, pair, choice, seconds, answered_at and origin; what is simulated stays
        so, everything else is from then on "import". Raises ValueError for a rater who is here
        already, and for two answers to one question.
        """
        rows = list(rows)
        with self.database.writing() as connection:
            self._lock(connection)
            keys = sa.select(question_table.c.rater_id, question_table.c.pair_id)
            present = {(str(row[0]), str(row[1])) for row in connection.execute(keys)}
            slots: defaultdict[str, int] = defaultdict(int)
            for pair_id, slot in _held(connection):
                slots[pair_id] = max(slots[pair_id], slot + 1)
            known = set(connection.execute(sa.select(rater_table.c.id)).scalars())
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
                check = self.study.by_id[pair_id].answer is not None
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
            if raters:
                connection.execute(sa.insert(rater_table), list(raters.values()))
                connection.execute(sa.insert(question_table), questions)
        return len(rows)

    def _lock(self, connection: sa.Connection) -> None:
        """Let one transaction at a time hand out questions (SQLite's writers are alone anyway)."""
        connection.execute(sa.select(study_table).with_for_update()).all()

    def _admitted(self, connection: sa.Connection, now: int) -> int:
        """Count the open link's raters who are through or at work; who dropped out frees a seat."""
        raters = rater_table.c
        alive = raters.finished_at.is_not(None) | (raters.expires_at >= now)
        query = sa.select(sa.func.count()).where((raters.origin == "open") & alive)
        return _count(connection, query)

    def _fill(self, connection: sa.Connection, rater: str, now: int) -> int:
        """Lease a rater questions up to their number; return how many they have then.

        Pairs with the fewest raters come first, so that all fill up evenly and the last rater
        still finds enough different ones.
        """
        study, table = self.study, question_table.c
        gone = sa.select(rater_table.c.id).where(rater_table.c.expires_at < now)
        connection.execute(
            sa.update(question_table)
            .where(table.slot.is_not(None) & table.choice.is_(None) & table.rater_id.in_(gone))
            .values(slot=None)
        )
        taken: defaultdict[str, set[int]] = defaultdict(set)
        for pair_id, slot in _held(connection):
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
                # Never first: the first question is where one learns what is asked.
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

    def _renew(self, connection: sa.Connection, rater: str, now: int) -> None:
        connection.execute(
            sa.update(rater_table)
            .where(rater_table.c.id == rater)
            .values(expires_at=self._lease(now))
        )

    def _lease(self, now: int) -> int:
        return now + self.study.lease_minutes * 60_000


def _now() -> int:
    return time.time_ns() // 1_000_000


def _lease(connection: sa.Connection, rater: str) -> tuple[int, int | None] | None:
    """Return when a rater's lease runs out and when they were through; None for a stranger."""
    raters = rater_table.c
    query = sa.select(raters.expires_at, raters.finished_at).where(raters.id == rater)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def _items(connection: sa.Connection, rater: str) -> list[Item]:
    table = question_table.c
    query = (
        sa.select(table.pair_id, table.is_check, table.choice)
        .where((table.rater_id == rater) & (table.slot.is_not(None) | table.is_check))
        .order_by(table.position)
    )
    return [Item(*row) for row in connection.execute(query)]


def _held(connection: sa.Connection) -> Iterable[tuple[str, int]]:
    table = question_table.c
    query = sa.select(table.pair_id, table.slot).where(table.slot.is_not(None))
    return [(pair_id, slot) for pair_id, slot in connection.execute(query)]


def _count(connection: sa.Connection, query: sa.Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
