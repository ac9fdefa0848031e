"""The raters' pages: link, consent, instructions, questions, completion code."""

from __future__ import annotations

import secrets as random_source
import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from dbbench.study.answers.store import Admission, AnswerOutcome, AssignedQuestion
from dbbench.study.design.study import CHOICES
from dbbench.study.server.guard import SESSION_COOKIE
from dbbench.study.server.site import Site, read_form, site_of

SESSION_SECONDS = 60 * 24 * 3600
"""How long a browser keeps the session."""


def routes() -> list[Route]:
    """Return the routes of the raters' pages."""
    return [
        Route("/", home),
        Route("/join/{token}", join),
        Route("/r/{token}", link),
        Route("/consent", consent),
        Route("/consent", agree, methods=["POST"]),
        Route("/instructions", instructions),
        Route("/question/{number:int}", question),
        Route("/question/{number:int}", answer, methods=["POST"]),
        Route("/done", done),
        Route("/credits", credits),
        Route("/image/{image}", image),
    ]


def home(request: Request) -> Response:
    """Redirect a rater to their next open question."""
    site = site_of(request)
    session = site.session(request)
    if session is None:
        return _needs_link(site)
    items = site.store.questionnaire(session[1])
    if items is None:
        return _see("/consent")
    number = _next_open(items)
    return _see("/done" if number is None else f"/question/{number}")


def join(request: Request) -> Response:
    """The open link: start a session for a new visitor; nothing is stored before consent."""
    site = site_of(request)
    if site.secrets.unsign("open", request.path_params["token"]) != site.study.id:
        return _needs_link(site)
    if site.session(request) is not None:
        return _see("/")
    return _with_session(site, "open", random_source.token_hex(10))


def link(request: Request) -> Response:
    """A personal link: the visitor becomes the rater that is signed in it."""
    site = site_of(request)
    rater = site.secrets.unsign("link", request.path_params["token"])
    if not isinstance(rater, str):
        return _needs_link(site)
    return _with_session(site, "link", rater)


def consent(request: Request) -> Response:
    """Show the consent text with a form; a rater who has agreed goes to their questions."""
    site = site_of(request)
    session = site.session(request)
    if session is None:
        return _needs_link(site)
    if site.store.questionnaire(session[1]) is not None:
        return _see("/")
    return site.page("consent", token=site.secrets.sign("consent", session[1]))


async def agree(request: Request) -> Response:
    """Admit a rater who agrees."""
    site, form = site_of(request), await read_form(request)
    session = site.session(request)
    if session is None:
        return _needs_link(site)
    origin, rater = session
    if site.secrets.unsign("consent", form.get("token", "")) != rater:
        return _not_yours(site, rater)
    match await run_in_threadpool(site.store.admit, rater, origin):
        case Admission.FULL:
            return site.message(
                "The study is full",
                "Enough people have taken part. Thank you for your interest.",
                status=403,
            )
        case Admission.NOTHING_FREE:
            return site.message(
                "No questions are free",
                "Other people are answering all remaining questions. If one of them stops,"
                f" questions are free again after at most {site.study.lease_minutes} minutes.",
                status=503,
                go=("/consent", "Try again"),
            )
    return _see("/instructions")


def instructions(request: Request) -> Response:
    """Show the instructions, and the personal link for continuing later."""
    site = site_of(request)
    session = site.session(request)
    if session is None or site.store.questionnaire(session[1]) is None:
        return _see("/")
    personal = str(request.url_for("link", token=site.secrets.sign("link", session[1])))
    return site.page("instructions", personal=personal)


def question(request: Request) -> Response:
    """Show a question; an answered one is shown with its answer, without the form."""
    site, number = site_of(request), int(request.path_params["number"])
    session = site.session(request)
    items = None if session is None else site.store.questionnaire(session[1])
    if session is None or items is None:
        return _see("/")
    following = _next_open(items)
    if not 1 <= number <= len(items) or (following is not None and number > following):
        return _see("/")
    item = items[number - 1]
    pair = site.study.by_id[item.pair_id]
    ahead = items[number] if number < len(items) else None
    token = [session[1], pair.id, time.time_ns() // 1_000_000, number, len(items)]
    return site.page(
        "question",
        pair=pair,
        number=number,
        total=len(items),
        answered=sum(1 for each in items if each.choice),
        choice=item.choice,
        references=site.study.references.get(pair.subject, ()),
        following=following,
        token=None if item.choice else site.secrets.sign("answer", token),
        preload=[] if ahead is None else _images(site, ahead),
    )


async def answer(request: Request) -> Response:
    """Store an answer and show the next question; refuse answers that the store refuses."""
    site, form = site_of(request), await read_form(request)
    session = site.session(request)
    if session is None:
        return _needs_link(site)
    rater = session[1]
    signed = site.secrets.unsign("answer", form.get("token", ""))
    if not isinstance(signed, list) or signed[0] != rater:
        return _not_yours(site, rater)
    _, pair_id, shown, number, total = signed
    choice = next((known for known in CHOICES if known == form.get("choice")), None)
    if choice is None:
        return site.refuse(
            f"the choice {form.get('choice', '')[:40]!r}",
            rater,
            "No answer was chosen",
            "Please choose one of the three answers.",
            status=400,
        )
    seconds = max(0.0, time.time_ns() // 1_000_000 - int(shown)) / 1000
    outcome = await run_in_threadpool(site.store.answer, rater, pair_id, choice, seconds)
    if outcome in (AnswerOutcome.KEPT, AnswerOutcome.SAME):
        return _see(f"/question/{number + 1}" if number < total else "/done")
    lines = {
        AnswerOutcome.REPEATED: "You have answered this question before. Your first answer counts.",
        AnswerOutcome.FOREIGN: "This question was not assigned to you.",
        AnswerOutcome.LOST: "You were away for a while. This question was given to another person.",
    }
    return site.refuse(
        f"{outcome.value} (pair {pair_id})", rater, "This answer was not stored", lines[outcome]
    )


def done(request: Request) -> Response:
    """Thank a rater who has finished, and show the completion code."""
    site = site_of(request)
    session = site.session(request)
    if session is None or not site.store.finish(session[1]):
        return _see("/")
    return site.page("done", code=site.completion_code(session[1]))


def credits(request: Request) -> Response:
    """Show the credits of the reference images."""
    site = site_of(request)
    lines = {
        subject: list(dict.fromkeys(reference.credit for reference in references))
        for subject, references in site.study.references.items()
    }
    return site.page("credits", lines=lines)


def image(request: Request) -> Response:
    """Serve an image by its opaque id; there is no other way to name a file."""
    site = site_of(request)
    file = site.study.images.get(request.path_params["image"])
    if file is None:
        return site.message("Image not found", status=404)
    return Response(
        (site.folder / "images" / file).read_bytes(),
        media_type="image/webp",
        headers={"cache-control": "private, max-age=86400, immutable"},
    )


def _images(site: Site, item: AssignedQuestion) -> list[str]:
    pair = site.study.by_id[item.pair_id]
    names = [pair.left.image, pair.right.image]
    if site.study.question == "subject":
        names += [reference.image for reference in site.study.references.get(pair.subject, ())]
    return names


def _next_open(items: list[AssignedQuestion]) -> int | None:
    return next((n for n, item in enumerate(items, 1) if item.choice is None), None)


def _with_session(site: Site, origin: str, rater: str) -> Response:
    response = _see("/")
    response.set_cookie(
        SESSION_COOKIE,
        site.secrets.sign("session", [origin, rater]),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="lax",
        secure=site.https,
    )
    return response


def _see(address: str) -> Response:
    return RedirectResponse(address, status_code=303)


def _needs_link(site: Site) -> Response:
    return site.message(
        "This study needs a link",
        "Please open the link that you were given. If you did, allow this site to store a cookie.",
        status=403,
    )


def _not_yours(site: Site, rater: str) -> Response:
    return site.refuse(
        "a form that was made for another rater, or is damaged",
        rater,
        "This form cannot be used",
        "It was not made for you, or it is damaged. Nothing was changed.",
        status=403,
    )
