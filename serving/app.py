"""The HTTP service: routes over one Runtime, wrapped by limits, keys, metrics and security headers."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from core.errors import StoreUnavailableError
from events.served import ServedLog
from serving.bootstrap import Runtime
from serving.middleware import KeyCheck, RequestMetrics, SecurityHeaders
from serving.routes.events import events_router
from serving.routes.feed import feed_router
from serving.routes.health import health_router
from serving.routes.page import page_router
from serving.schemas import MAX_BODY_BYTES
from serving.security import ApiKeys

REQUEST_THREADS = 4
"""Requests of a process that are worked on at once; the others wait their turn. Some wait for Redis or the disk."""
PAGE_FOLDER = Path(__file__).parent / "page"


def create_app(runtime: Runtime) -> FastAPI:
    """The service. It owns `runtime` and closes it at the end."""
    served = ServedLog(runtime.workspace.served)
    feed = runtime.open_feed(served, lambda: secrets.randbits(63))
    intake = runtime.open_intake(served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The funnel is work, not waiting: more threads than can run at once would only take turns at the interpreter.
        current_default_thread_limiter().total_tokens = REQUEST_THREADS
        served.prune(runtime.clock.now())
        yield
        served.close()
        runtime.close()

    app = FastAPI(
        title="Vitrine",
        version="1",
        summary="A ranked, personalised feed of posts, and the events that come back from it.",
        docs_url=None,  # the stock page loads scripts from outside
        redoc_url=None,
        lifespan=lifespan,
        max_body_size=MAX_BODY_BYTES,
    )
    app.include_router(feed_router(runtime, feed, served))
    app.include_router(events_router(intake))
    app.include_router(health_router(runtime))
    app.include_router(page_router(runtime, PAGE_FOLDER))
    app.mount("/static", StaticFiles(directory=PAGE_FOLDER), name="static")
    app.add_exception_handler(StoreUnavailableError, _unavailable)
    app.add_exception_handler(RequestValidationError, _malformed)
    # Added last runs first: metrics see every answer, keys are asked for before a body is read.
    app.add_middleware(KeyCheck, keys=ApiKeys(runtime.settings.api_keys))
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMetrics, metrics=runtime.metrics)
    return app


def _malformed(request: Request, error: Exception) -> Response:
    """422 with the field and what was expected; what was sent is not echoed, it may be huge or not JSON."""
    complaints = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{"type": c["type"], "loc": list(c["loc"]), "msg": c["msg"]} for c in complaints]
    return JSONResponse({"detail": detail}, status_code=422)


def _unavailable(request: Request, error: Exception) -> Response:
    # The message names files and hosts; the client needs only to know that trying again is right.
    return JSONResponse(
        {"detail": "a store does not answer; nothing of this request was kept, try again"},
        status_code=503,
        headers={"Retry-After": "1"},
    )
