"""Both databases for the tests of the study: SQLite, and PostgreSQL where it is installed."""

from __future__ import annotations

import getpass
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NewDatabase = Callable[[], str]
"""Returns the URL of a new and empty database at each call."""


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if found:
        return found[-1].parent
    on_path = shutil.which("pg_ctl")
    return Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[NewDatabase]:
    """A PostgreSQL server of our own on a socket in a temporary folder."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = getpass.getuser()
    prefix: list[str] = []
    # Not below pytest's own folder: that is closed to the user whom the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="study-postgresql-"))
    if os.geteuid() == 0:  # It refuses to run as root.
        user, prefix = "postgres", ["runuser", "-u", "postgres", "--"]
        try:
            shutil.chown(folder, user)
        except LookupError:
            folder.rmdir()
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")

    def call(program: str, *arguments: str) -> None:
        command = [*prefix, str(binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
    numbers = itertools.count()

    def new() -> str:
        name = f"study{next(numbers)}"
        call("createdb", "-h", str(folder), "-U", user, name)
        return f"postgresql://{user}@/{name}?host={folder}"

    try:
        call("initdb", "-D", data, "-A", "trust", "-U", user, "--no-sync", "-E", "UTF8")
        call("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
        yield new
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Each test twice: on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        server: NewDatabase = request.getfixturevalue("postgresql")
        return server
    numbers = iter(range(1000))
    return lambda: f"sqlite:///{tmp_path}/answers{next(numbers)}.sqlite"
