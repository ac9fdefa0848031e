"""The researcher's pages, protected by a token: progress, raters, downloads."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbbench.study.server.site import Site, log, read_form, site_of

ADMIN_COOKIE = "dbbench_admin"
ADMIN_SECONDS = 12 * 3600


def routes() -> list[Route]:
    """Return the routes of the administration pages."""
    return [
        Route("/admin", overview),
        Route("/admin", enter, methods=["POST"]),
        Route("/admin/answers.{kind}", download),
    ]


def overview(request: Request) -> Response:
    """Show the study's progress, or ask for the token."""
    site = site_of(request)
    if not _is_admin(site, request):
        return site.page("admin_login", wrong=False, status=401)
    raters = [rater | {"code": site.completion_code(rater["id"])} for rater in site.store.raters()]
    open_link = str(request.url_for("join", token=site.secrets.sign("open", site.study.id)))
    return site.page("admin", progress=site.store.progress(), raters=raters, open_link=open_link)


async def enter(request: Request) -> Response:
    """Check the token and set the cookie."""
    site, form = site_of(request), await read_form(request)
    if not site.secrets.is_admin(form.get("token", "")):
        log.warning("refused: a wrong token for administration")
        return await run_in_threadpool(site.page, "admin_login", wrong=True, status=403)
    response = RedirectResponse("/admin", status_code=303)
    response.set_cookie(
        ADMIN_COOKIE,
        site.secrets.sign("admin", site.study.id),
        max_age=ADMIN_SECONDS,
        path="/admin",
        httponly=True,
        samesite="strict",
        secure=site.https,
    )
    return response


def download(request: Request) -> Response:
    """Send all answers as CSV or JSON lines."""
    from dbbench.study.answers.answers import FILE_TYPES, export_text

    site, kind = site_of(request), request.path_params["kind"]
    if not _is_admin(site, request):
        return site.page("admin_login", wrong=False, status=401)
    if kind not in FILE_TYPES:
        return site.message("File not found", status=404)
    return Response(
        export_text(site.study, site.store.answers(), kind),
        media_type=FILE_TYPES[kind],
        headers={"content-disposition": f'attachment; filename="answers.{kind}"'},
    )


def _is_admin(site: Site, request: Request) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and site.secrets.is_admin(token.strip()):
        return True
    signed = request.cookies.get(ADMIN_COOKIE, "")
    return bool(signed) and site.secrets.unsign("admin", signed) == site.study.id
