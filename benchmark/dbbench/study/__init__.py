"""The user study: finished runs -> pairs of images -> web application -> answers -> tables.

    create     runs -> study folder (draw, study, texts)
    serve      study folder -> pages and answers (web, admin, store, database)
    results    answers -> preferences with intervals (answers, analysis)
    reports    analysis -> the paper's second table, pages and files (dbbench.reports.study.pages)
    simulate   raters with a known preference -> answers, for planning and for testing

The extra `study` installs the libraries of `serve` and the statistics; see docs/study.md.
"""

from __future__ import annotations

from importlib.util import find_spec

from dbbench.errors import UserError

EXTRA = ("alembic", "itsdangerous", "krippendorff", "sqlalchemy", "starlette", "statsmodels")


def require_extra() -> None:
    """Raise UserError if a library of the extra `study` is not installed."""
    absent = [name for name in EXTRA if find_spec(name) is None]
    if absent:
        raise UserError(
            f"the user study needs {absent[0]}, which is not installed:"
            ' pip install "dbbench[study]"'
        )
