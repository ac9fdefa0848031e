"""The study's tables in SQLite or PostgreSQL; only the store reads and writes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dbbench.errors import UserError
from dbbench.study.design.study import CHOICES, SQLITE_FILE

ORIGINS = ("link", "open", "simulated", "import")
BUSY_SECONDS = 15
CONNECTIONS = 8

metadata = sa.MetaData()

study_table = sa.Table(
    "study",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
)

rater_table = sa.Table(
    "rater",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("origin", sa.String(16), nullable=False),
    # Times are milliseconds since 1970, UTC.
    sa.Column("admitted_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.CheckConstraint(f"origin IN {ORIGINS}", name="known_origin"),
)

# A question and its answer are one row, so that two answers cannot exist.
question_table = sa.Table(
    "question",
    metadata,
    sa.Column("rater_id", sa.String(64), sa.ForeignKey("rater.id"), primary_key=True),
    sa.Column("pair_id", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    # The number of the rater among the pair's raters; NULL in an attention check, or where the
    # assignment expired and went to another rater.
    sa.Column("slot", sa.Integer),
    sa.Column("is_check", sa.Boolean, nullable=False),
    sa.Column("choice", sa.String(16)),
    sa.Column("seconds", sa.Float),
    sa.Column("answered_at", sa.BigInteger),
    sa.UniqueConstraint("rater_id", "position", name="one_question_a_place"),
    sa.UniqueConstraint("pair_id", "slot", name="one_rater_a_slot"),
    sa.CheckConstraint(f"choice IN {CHOICES}", name="known_choice"),
    sa.CheckConstraint("(choice IS NULL) = (answered_at IS NULL)", name="answer_is_whole"),
    sa.CheckConstraint("slot IS NULL OR NOT is_check", name="checks_have_no_slot"),
)


@dataclass(frozen=True)
class Database:
    """An open database. A committed write is on the disk."""

    engine: sa.Engine
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that writes; it is committed if the block raises no error."""
        if self.engine.dialect.name != "sqlite":
            with self.engine.begin() as connection:
                yield connection
            return
        # SQLite allows one writer, and the others poll; threads of this process wait here instead.
        with (
            self._turn,
            self.engine.connect() as connection,
            connection.execution_options(writes=True).begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close all connections of the engine's pool."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Open a database by its URL and update its schema.

    Raises UserError, without the password, if it cannot be used.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise UserError(
            "the database URL cannot be read; write it like sqlite:///answers.sqlite or"
            " postgresql://user:password@host/name"
        ) from None
    shown = parsed.render_as_string(hide_password=True)
    backend = parsed.get_backend_name()
    try:
        if backend == "sqlite":
            engine = _sqlite(parsed)
        elif backend in {"postgresql", "postgres"}:
            engine = sa.create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_size=CONNECTIONS,
                pool_pre_ping=True,
            )
        else:
            raise UserError(f"{shown}: use sqlite:///FILE or postgresql://user:password@host/name")
        database = Database(engine)
        try:
            _migrate(database)
        except BaseException:
            database.close()
            raise
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise UserError(f"the database {shown} cannot be used: {reason}") from None
    return database


def default_url(folder: Path) -> str:
    """Return the URL of the SQLite database in a study's folder."""
    return f"sqlite:///{(folder / SQLITE_FILE).resolve()}"


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=CONNECTIONS, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # Transactions are begun below, not by the driver.
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # A commit that returned is on the disk.
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A write that begins as a read can fail later, if another one has written meanwhile.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "dbbench.study.answers:migrations")
    config.set_main_option("path_separator", "os")
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
