"""The store of a study: admission of raters, their questions and answers; the pages call it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dbbench.errors import UserError
from dbbench.study.answers.assignments import assign_questions, rows_of_import, taken_slots
from dbbench.study.answers.database import (
    Database,
    default_url,
    open_database,
    question_table,
    rater_table,
    study_table,
)
from dbbench.study.design.study import Choice, Study, load_study


class Admission(Enum):
    """The result of admitting a rater who agreed to take part."""

    ADMITTED = "admitted"
    FULL = "full"
    """The open link has admitted as many raters as its quota."""
    NOTHING_FREE = "nothing free"
    """Every question is answered, or assigned to another rater."""


class AnswerOutcome(Enum):
    """The result of giving an answer. Only KEPT has changed the database."""

    KEPT = "kept"
    SAME = "the same answer again"
    REPEATED = "a different answer to an answered question"
    FOREIGN = "a question that was not assigned to this rater"
    LOST = "a question that is now assigned to another rater"


@dataclass(frozen=True)
class AssignedQuestion:
    """One question of a rater's questionnaire, with its answer if there is one."""

    pair_id: str
    is_check: bool
    choice: Choice | None


@dataclass(frozen=True)
class StudyProgress:
    """The counts of raters, answers and complete pairs."""

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
        """Bind the database to the study. Raises UserError if it belongs to another study."""
        self.study, self.database = study, database
        with database.writing() as connection:
            known = connection.execute(sa.select(study_table.c.id)).scalars().all()
            if not known:
                connection.execute(sa.insert(study_table).values(id=study.id))
            elif known != [study.id]:
                raise UserError(
                    f"the database holds the answers of another study ({known[0]}, not {study.id});"
                    " use one database per study: --database URL"
                )

    def admit(self, rater: str, origin: str, *, now: int | None = None) -> Admission:
        """Admit a rater and assign their questions; an admitted rater stays admitted."""
        now = _now() if now is None else now
        with self.database.writing() as connection:
            self._lock(connection)
            if _rater_times(connection, rater) is not None:
                return Admission.ADMITTED
            if origin == "open" and self._admitted(connection, now) >= self.study.quota:
                return Admission.FULL
            connection.execute(
                sa.insert(rater_table).values(
                    id=rater, origin=origin, admitted_at=now, expires_at=self._expiry(now)
                )
            )
            if not assign_questions(self.study, connection, rater, now):
                connection.rollback()
                return Admission.NOTHING_FREE
        return Admission.ADMITTED

    def questionnaire(self, rater: str, *, now: int | None = None) -> list[AssignedQuestion] | None:
        """Return a rater's questions in order; None if the rater was not admitted.

        If their assignments have expired, they get back those that no other rater has taken, and
        new questions for the rest.
        """
        now = _now() if now is None else now
        with self.database.reading() as connection:
            times = _rater_times(connection, rater)
            if times is None:
                return None
            items = _items(connection, rater)
        expires_at, finished_at = times
        if expires_at >= now or finished_at is not None:
            return items
        with self.database.writing() as connection:
            self._lock(connection)
            assign_questions(self.study, connection, rater, now)
            self._renew(connection, rater, now)
            return _items(connection, rater)

    def answer(
        self, rater: str, pair_id: str, choice: Choice, seconds: float, *, now: int | None = None
    ) -> AnswerOutcome:
        """Store an answer; after KEPT it is on the disk. No answer is ever overwritten."""
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
                return AnswerOutcome.KEPT
            row = connection.execute(sa.select(table.choice).where(own)).one_or_none()
        if row is None:
            return AnswerOutcome.FOREIGN
        if row.choice is None:
            return AnswerOutcome.LOST
        return AnswerOutcome.SAME if row.choice == choice else AnswerOutcome.REPEATED

    def finish(self, rater: str, *, now: int | None = None) -> bool:
        """Mark a rater as finished; return False if one of their questions is open."""
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

    def progress(self) -> StudyProgress:
        """Count raters, answers and complete pairs."""
        table, study = question_table.c, self.study
        given = sa.select(sa.func.count().label("raters")).where(
            table.choice.is_not(None) & ~table.is_check
        )
        by_pair = given.group_by(table.pair_id).subquery()
        complete = sa.select(sa.func.count()).where(by_pair.c.raters >= study.raters_per_pair)
        raters = rater_table.c
        simulated = sa.select(sa.func.count()).where(raters.origin == "simulated")
        with self.database.reading() as connection:
            return StudyProgress(
                raters=_count(connection, sa.select(sa.func.count(raters.id))),
                finished=_count(connection, sa.select(sa.func.count(raters.finished_at))),
                answers=_count(connection, given),
                wanted=len(study.pairs) * study.raters_per_pair,
                complete_pairs=_count(connection, complete),
                simulated=_count(connection, simulated) > 0,
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
        """Return all answers, including attention checks, in the order in which they were given."""
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

    def add(self, rows: Sequence[dict[str, Any]]) -> int:
        """Add answers that were given elsewhere, all or none; return how many.

        Each row has rater, pair, choice, seconds, answered_at and origin. The origin "simulated" is
        kept, any other becomes "import". Raises ValueError if a rater is in the database already,
        and for two answers to one question.
        """
        with self.database.writing() as connection:
            self._lock(connection)
            keys = sa.select(question_table.c.rater_id, question_table.c.pair_id)
            present = {(str(row[0]), str(row[1])) for row in connection.execute(keys)}
            slots: defaultdict[str, int] = defaultdict(int)
            for pair_id, slot in taken_slots(connection):
                slots[pair_id] = max(slots[pair_id], slot + 1)
            known = set(connection.execute(sa.select(rater_table.c.id)).scalars())
            raters, questions = rows_of_import(self.study, rows, present, known, slots)
            if raters:
                connection.execute(sa.insert(rater_table), raters)
                connection.execute(sa.insert(question_table), questions)
        return len(rows)

    def _lock(self, connection: sa.Connection) -> None:
        """Let one transaction at a time assign questions (SQLite has one writer anyway)."""
        connection.execute(sa.select(study_table).with_for_update()).all()

    def _admitted(self, connection: sa.Connection, now: int) -> int:
        """Count the open link's raters who have finished or still have time to answer."""
        raters = rater_table.c
        alive = raters.finished_at.is_not(None) | (raters.expires_at >= now)
        query = sa.select(sa.func.count()).where((raters.origin == "open") & alive)
        return _count(connection, query)

    def _renew(self, connection: sa.Connection, rater: str, now: int) -> None:
        connection.execute(
            sa.update(rater_table)
            .where(rater_table.c.id == rater)
            .values(expires_at=self._expiry(now))
        )

    def _expiry(self, now: int) -> int:
        return now + self.study.lease_minutes * 60_000


def open_store(folder: Path, url: str | None = None) -> Store:
    """Open the answers to the study in a folder: its own database, or the one of that URL."""
    return Store(load_study(folder), open_database(url or default_url(folder)))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _rater_times(connection: sa.Connection, rater: str) -> tuple[int, int | None] | None:
    """Return when a rater's assignments expire and when they finished; None if unknown."""
    raters = rater_table.c
    query = sa.select(raters.expires_at, raters.finished_at).where(raters.id == rater)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def _items(connection: sa.Connection, rater: str) -> list[AssignedQuestion]:
    table = question_table.c
    query = (
        sa.select(table.pair_id, table.is_check, table.choice)
        .where((table.rater_id == rater) & (table.slot.is_not(None) | table.is_check))
        .order_by(table.position)
    )
    return [AssignedQuestion(*row) for row in connection.execute(query)]


def _count(connection: sa.Connection, query: sa.Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())
