"""Build the web application of a study's folder and serve it (`dbbench study serve`)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbbench.errors import UserError
from dbbench.study.answers.store import open_store
from dbbench.study.design.secret import Secrets
from dbbench.study.server import admin, pages
from dbbench.study.server.guard import Guard, RateLimit
from dbbench.study.server.site import Site, site_of

STATIC = {"study.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}


PER_RATER = (20.0, 120.0)
"""Requests per second, and the size of a burst."""
PER_ADDRESS = (5.0, 200.0)


def make_app(
    folder: Path,
    url: str | None = None,
    *,
    https: bool = False,
    per_rater: tuple[float, float] = PER_RATER,
) -> Starlette:
    """Return the application of a study's folder. `https`: raters use an https address.

    Raises UserError if the folder or the database cannot be used.
    """
    secrets, store = Secrets.load(folder), open_store(folder, url)
    if store.progress().simulated:
        store.database.close()
        raise UserError(
            "this database holds simulated answers; use another one for people: --database URL"
        )
    site = Site(folder, store.study, store, secrets, https)
    guard = Middleware(
        Guard,
        secrets=secrets,
        https=https,
        per_rater=RateLimit(*per_rater),
        per_address=RateLimit(*PER_ADDRESS),
    )

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        store.database.close()

    app = Starlette(
        lifespan=life,
        routes=[*pages.routes(), *admin.routes(), Route("/static/{name}", _static)],
        middleware=[guard],
        exception_handlers={HTTPException: _problem, Exception: _failure},
    )
    app.state.site = site
    return app


def serve(app: Starlette, host: str, port: int) -> None:
    """Serve the application at this address until Ctrl-C."""
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,  # It would store addresses.
        log_level="warning",
        server_header=False,
        h11_max_incomplete_event_size=16 * 1024,
        timeout_keep_alive=30,
    )
    uvicorn.Server(config).run()


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return site_of(request).message("File not found", status=404)
    content = files("dbbench.study.server").joinpath("static", name).read_bytes()
    headers = {"cache-control": "public, max-age=3600"}
    return Response(content, media_type=STATIC[name], headers=headers)


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Page not found", 405: "This page does not accept this request"}
    return site_of(request).message(
        titles.get(error.status_code, error.detail), status=error.status_code, go=("/", "Continue")
    )


def _failure(request: Request, error: Exception) -> Response:
    return site_of(request).message(
        "Something went wrong",
        "Your answers so far are stored. Please try again in a moment.",
        status=500,
        go=("/", "Continue"),
    )
