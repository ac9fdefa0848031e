"""Shared by all pages: the study, its store, its secrets, and rendering of templates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dbbench.study.answers.store import Store
from dbbench.study.design.secret import Secrets
from dbbench.study.design.study import Study
from dbbench.study.server.guard import session_of

log = logging.getLogger("dbbench.study")


@dataclass(frozen=True)
class Site:
    """One study that is served."""

    folder: Path
    study: Study
    store: Store
    secrets: Secrets
    https: bool

    def session(self, request: Request) -> tuple[str, str] | None:
        """Return (origin, rater) of a request's session; None without a valid one."""
        return session_of(self.secrets, request.headers.get("cookie"))

    def completion_code(self, rater: str) -> str:
        """Return the completion code: the study's one, or the rater's own."""
        return self.study.texts.completion_code or self.secrets.completion_code(rater)

    def page(self, name: str, *, status: int = 200, **context: Any) -> HTMLResponse:
        """Render the template NAME.html.j2 with the study and `context`."""
        text = environment().get_template(f"{name}.html.j2").render(study=self.study, **context)
        return HTMLResponse(text, status_code=status)

    def message(
        self, title: str, *lines: str, status: int = 200, go: tuple[str, str] | None = None
    ) -> HTMLResponse:
        """Show a message on its own page; `go` is the address and the text of a link."""
        return self.page("message", status=status, title=title, lines=lines, go=go)

    def refuse(
        self, reason: str, rater: str, title: str, *lines: str, status: int = 409
    ) -> HTMLResponse:
        """Show a page which explains that nothing was changed; log the reason."""
        log.warning("refused: rater %.40r: %s", rater, reason)
        return self.message(title, *lines, status=status, go=("/", "Continue"))


def site_of(request: Request) -> Site:
    """Return the site that a request is for."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


async def read_form(request: Request) -> dict[str, str]:
    """Return a form's fields, the last value of each; `Guard` has checked the size."""
    body = await request.body()
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the templates' environment; it escapes all inserted text."""
    return Environment(
        loader=PackageLoader("dbbench.study.server", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
