"""What the researcher sees behind the token: progress, raters, results, downloads."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbbench.study.server.site import Site, log, read_form, site_of

COOKIE = "dbbench_admin"
LASTS = 12 * 3600


def routes() -> list[Route]:
    """Return the addresses of administration."""
    return [
        Route("/admin", overview),
        Route("/admin", enter, methods=["POST"]),
        Route("/admin/answers.{kind}", download),
    ]


def overview(request: Request) -> Response:
    """Show how far the study is, or ask for the token."""
    site = site_of(request)
    if not _is_admin(site, request):
        return site.page("admin_login", wrong=False, status=401)
    raters = [rater | {"code": site.completion_code(rater["id"])} for rater in site.store.raters()]
    open_link = str(request.url_for("join", token=site.secrets.sign("open", site.study.id)))
    return site.page("admin", progress=site.store.progress(), raters=raters, open_link=open_link)


async def enter(request: Request) -> Response:
    """Check the token."""
    site, form = site_of(request), await read_form(request)
    if not site.secrets.is_admin(form.get("token", "")):
        log.warning("refused: a wrong token for administration")
        return await run_in_threadpool(site.page, "admin_login", wrong=True, status=403)
    response = RedirectResponse("/admin", status_code=303)
    response.set_cookie(
        COOKIE,
        site.secrets.sign("admin", site.study.id),
        max_age=LASTS,
        path="/admin",
        httponly=True,
        samesite="strict",
        secure=site.https,
    )
    return response


def download(request: Request) -> Response:
    """Give all answers as CSV or JSON lines."""
    from dbbench.study.answers.answers import KINDS, export_text

    site, kind = site_of(request), request.path_params["kind"]
    if not _is_admin(site, request):
        return site.page("admin_login", wrong=False, status=401)
    if kind not in KINDS:
        return site.message("There is no such file", status=404)
    return Response(
        export_text(site.study, site.store.answers(), kind),
        media_type=KINDS[kind],
        headers={"content-disposition": f'attachment; filename="answers.{kind}"'},
    )


def _is_admin(site: Site, request: Request) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and site.secrets.is_admin(token.strip()):
        return True
    signed = request.cookies.get(COOKIE, "")
    return bool(signed) and site.secrets.unsign("admin", signed) == site.study.id
