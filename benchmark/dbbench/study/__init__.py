"""The user study: pairs of a finished run -> a folder -> a web application -> answers -> tables.

    create     runs -> study folder (draw, study, texts)
    serve      study folder -> pages and answers (web, admin, store, database)
    results    answers -> what people prefer and how surely (answers, analysis)
    reports    analysis -> the paper's second table, pages and files (dbbench.reports.study.pages)
    simulate   raters with a known preference -> answers, for planning and for testing

What only `serve` and the statistics need is the extra `study`; see docs/study.md.
"""

from __future__ import annotations

from importlib.util import find_spec

from dbbench.errors import UserError

EXTRA = ("alembic", "itsdangerous", "krippendorff", "sqlalchemy", "starlette", "statsmodels")


def require_extra() -> None:
    """Raise UserError where the libraries of the extra are not installed."""
    absent = [name for name in EXTRA if find_spec(name) is None]
    if absent:
        raise UserError(
            f"the user study needs {absent[0]}, which is not installed:"
            ' pip install "dbbench[study]"'
        )
