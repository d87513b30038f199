"""The outermost layer: gives every call its id, counts it, writes one log line about it, and catches what broke.

A line names the route's template, never the path, and the id of the key, never the key.
"""

import secrets
from contextvars import ContextVar
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from core.ids import MAX_ID, request_id_text
from core.logs import logger
from serving.metrics import Metrics

REQUEST_ID_HEADER = "X-Request-ID"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_current: ContextVar[int] = ContextVar("request_id", default=0)


def current_request_id() -> int:
    """Id of the HTTP call that is being answered, 0 outside one. A page of a feed has the id of its call."""
    return _current.get()


class RequestLog:
    """Counts and logs answers by route template, so that ids become neither labels nor lines."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = logger("serving")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.randbits(63) & MAX_ID
        text = request_id_text(request_id)
        began, status = perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault(REQUEST_ID_HEADER, text)
            await send(message)

        token = _current.set(request_id)
        with bound_contextvars(request_id=text), self._metrics.in_flight():
            try:
                await self._app(scope, receive, noted)
            except Exception:
                # The 500 is on its way. Frames say where it broke; its message might hold what the client sent.
                self._log.error("call failed", exc_info=True)
            finally:
                _current.reset(token)
                self._note(scope, status, perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.http(route, method, status, seconds)
        caller = scope.get("caller")
        self._log.info(
            "call", method=method, route=route, status=status, ms=round(seconds * 1e3, 2),
            key=caller.key_id if caller else None,
        )  # fmt: skip
