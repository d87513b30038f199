"""What wraps every route, as plain ASGI: callers, nesting of bodies, security headers."""

import math

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api_keys import KeyRing
from serving.metrics import Metrics
from serving.nesting import Nesting
from serving.rates import Buckets
from serving.security import KEY_HEADER, OPEN_PATHS, SAFE_METHODS, is_loopback_name, required_role

MAX_NESTING = 32
"""Deepest nesting of a JSON body; the deepest of the API's own is 5."""


class CallerCheck:
    """Asks every call for a key whose role and rate allow it, and for an origin that is ours."""

    def __init__(
        self, app: ASGIApp, keys: KeyRing, rate: float, buckets: Buckets, is_loopback: bool, metrics: Metrics
    ) -> None:
        """`rate`: calls per second of a key without its own limit."""
        self._app = app
        self._keys = keys
        self._rate = rate
        self._is_loopback = is_loopback
        self._buckets = buckets
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        caller = self._keys.caller(headers.get(KEY_HEADER))
        if caller is None:
            return self._refused(401, "unauthorized", f"send a known key as {KEY_HEADER}")
        scope["caller"] = caller
        if not self._keys.is_required and self._is_loopback and not is_loopback_name(headers.get("host", "")):
            # A foreign page whose name was pointed at this machine would otherwise read feeds through the browser.
            return self._refused(403, "foreign_host", "without keys the server answers only to names of this machine")
        if scope["method"] not in SAFE_METHODS and _is_foreign(headers):
            return self._refused(403, "foreign_origin", "pages of other origins may not write here")
        needed = required_role(scope["method"], scope["path"])
        if caller.role < needed:
            return self._refused(403, "role", f"this call needs the role {needed.name.lower()}")
        wait = self._buckets.take(caller.key_id, self._rate if caller.rate is None else caller.rate)
        if wait > 0:
            after = {"Retry-After": str(math.ceil(wait))}
            return self._refused(429, "rate", "this key calls more often than it may; slow down", after)
        return None

    def _refused(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
        self._metrics.refused(reason)
        return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that the call comes from a page of another origin."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


class CallLimit:
    """Refuses calls beyond `most` at once, for what waits for a thread waits in memory; never who asks for health."""

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self._app = app
        self._most = most
        self._metrics = metrics
        self._num_calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._num_calls >= self._most:
            self._metrics.refused("calls")
            refusal = JSONResponse({"detail": "too many calls at once, try again"}, 503, headers={"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        self._num_calls += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_calls -= 1


class BodyNesting:
    """Refuses a JSON body that is nested too deeply for a parser, while it arrives."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "json" not in Headers(scope=scope).get("content-type", ""):
            await self._app(scope, receive, send)
            return
        nesting = Nesting()

        async def checked() -> Message:
            message = await receive()
            if message["type"] == "http.request" and nesting.deepest(message.get("body", b"")) > MAX_NESTING:
                self._metrics.refused("nesting")
                reason = f"JSON nested deeper than {MAX_NESTING} levels"
                raise HTTPException(422, [{"type": "nesting", "loc": ["body"], "msg": reason}])
            return message

        await self._app(scope, checked, send)


class SecurityHeaders:
    """Adds headers that keep a browser from loading, framing or guessing anything we did not send."""

    _HEADERS = (
        ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Permissions-Policy", "camera=(), microphone=(), geolocation=()"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._HEADERS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
