"""Ends calls that take too long: 408 for a body that does not arrive, 503 for an answer that does not come."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics


class TimeLimits:
    """Work that is under way cannot be stopped; what it would have answered is dropped."""

    def __init__(self, app: ASGIApp, body_seconds: float, answer_seconds: float, metrics: Metrics) -> None:
        self._app = app
        self._body_seconds = body_seconds
        self._answer_seconds = answer_seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _TimedCall(scope, receive, send, self._metrics)
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
            call.expect_body(self._body_seconds, self._answer_seconds)
        else:
            call.expect_answer(self._answer_seconds)
        try:
            await self._app(scope, call.receive, call.send)
        finally:
            await call.close()


class _TimedCall:
    """One call and the timer that runs for what it waits for: its body first, then the first byte of the answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, metrics: Metrics) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._metrics = metrics
        self._timer: asyncio.TimerHandle | None = None
        self._answer_seconds = 0.0
        self._is_answered = False
        self._refusal: asyncio.Task[None] | None = None

    def expect_body(self, body_seconds: float, answer_seconds: float) -> None:
        self._answer_seconds = answer_seconds
        self._start(body_seconds, 408, "body_time", "the body did not arrive in time")

    def expect_answer(self, seconds: float) -> None:
        self._start(seconds, 503, "answer_time", "the answer took too long; try again")

    async def receive(self) -> Message:
        message = await self._receive()
        is_body_end = message["type"] == "http.request" and not message.get("more_body", False)
        if is_body_end and self._answer_seconds and not self._is_answered and self._refusal is None:
            self.expect_answer(self._answer_seconds)
        return message

    async def send(self, message: Message) -> None:
        if self._refusal is not None:
            return
        self._is_answered = True
        self._stop()
        await self._send(message)

    async def close(self) -> None:
        self._stop()
        if self._refusal is not None:
            await self._refusal

    def _start(self, seconds: float, status: int, reason: str, detail: str) -> None:
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire, status, reason, detail)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self, status: int, reason: str, detail: str) -> None:
        self._metrics.refused(reason)
        headers = {"Retry-After": "1", "Connection": "close"}
        refusal = JSONResponse({"detail": detail}, status_code=status, headers=headers)
        self._refusal = asyncio.create_task(refusal(self._scope, self._receive, self._send))
