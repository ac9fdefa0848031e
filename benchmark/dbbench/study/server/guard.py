"""Middleware in front of every page: limits of size and rate, and security headers."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dbbench.study.design.secret import Secrets

SESSION_COOKIE = "dbbench_study"
LARGEST_BODY = 8 * 1024
LARGEST_PATH = 1024
log = logging.getLogger("dbbench.study")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass
class RateLimit:
    """A token bucket for each key: `burst` requests at once, then `rate` per second."""

    rate: float
    burst: float
    keys: int = 20_000
    """Maximum number of buckets, in memory only; the least recently used ones are dropped."""
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def allows(self, key: str, now: float) -> bool:
        """Take one request from the key's bucket; False if it is empty. `now` is in seconds."""
        level, at = self._buckets.pop(key, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.rate)
        allowed = level >= 1
        self._buckets[key] = (level - allowed, now)
        if len(self._buckets) > self.keys:
            self._buckets.popitem(last=False)
        return allowed


def session_of(secrets: Secrets, cookie: str | None) -> tuple[str, str] | None:
    """Return (origin, rater) from a Cookie header; None without a valid signature."""
    try:
        morsel = SimpleCookie(cookie or "").get(SESSION_COOKIE)
    except CookieError:
        return None
    value = None if morsel is None else secrets.unsign("session", morsel.value)
    return None if value is None else (str(value[0]), str(value[1]))


class Guard:
    """ASGI middleware. Requests are limited per rater; those without one, per address."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        secrets: Secrets,
        https: bool,
        per_rater: RateLimit,
        per_address: RateLimit,
    ) -> None:
        self._app, self._secrets, self._https = app, secrets, https
        self._per_rater, self._per_address = per_rater, per_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse requests that are too many, too large or from another site; pass on the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
                answer.setdefault("cache-control", "no-store")
                if self._https:
                    answer["strict-transport-security"] = "max-age=31536000"
            await send(message)

        if (refusal := self._refusal(scope, headers)) is not None:
            log.warning("refused: %s %.80r: %s", scope["method"], scope["path"], refusal[1])
            response = PlainTextResponse(refusal[1] + "\n", status_code=refusal[0])
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        if not self._allowed(scope, headers):
            return 429, "Too many requests. Please wait a few seconds, then reload the page."
        if len(scope["path"]) > LARGEST_PATH:
            return 414, "This address is too long."
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal() or int(length) > LARGEST_BODY:
            return 413, "This form is too large."
        # Browsers send the form's origin; without that header, the form's token is still required.
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "same-origin") not in {
            "same-origin",
            "none",
        }:
            return 403, "This form comes from another site."
        return None

    def _allowed(self, scope: Scope, headers: Headers) -> bool:
        now = time.monotonic()
        session = session_of(self._secrets, headers.get("cookie"))
        if session is not None:
            return self._per_rater.allows(session[1], now)
        if scope["path"].startswith("/r/"):
            rater = self._secrets.unsign("link", scope["path"][3:])
            if rater is not None:
                return self._per_rater.allows(str(rater), now)
        client = scope.get("client")
        return self._per_address.allows(client[0] if client else "", now)
