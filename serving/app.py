"""The HTTP service: routes over one Runtime, wrapped by limits, keys, metrics and security headers."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from core.errors import StoreUnavailableError
from events.served import ServedLog
from serving.api_keys import KeyRing
from serving.bootstrap import Runtime
from serving.crew import Crew
from serving.entity_store import EntityStore, UnknownEntityError
from serving.erasure import open_erasure
from serving.middleware import BodyNesting, CallerCheck, CallLimit, SecurityHeaders
from serving.rates import Buckets, TokenBuckets
from serving.reload import Watcher
from serving.request_log import RequestLog
from serving.routes.browse import browse_router
from serving.routes.entities import entities_router
from serving.routes.events import events_router
from serving.routes.explain import explain_router
from serving.routes.feed import feed_router
from serving.routes.health import health_router
from serving.routes.page import page_router
from serving.schemas import MAX_BODY_BYTES, writable
from serving.security import is_loopback
from serving.shared_metrics import SharedMetrics
from serving.shared_rates import SharedBuckets
from serving.time_limits import TimeLimits
from serving.tracing import TracedCalls

REQUEST_THREADS = 4
"""Calls but feeds that a process works on at once; the others wait their turn. Some wait for Redis or the disk."""
MAX_CALLS = 256
"""Calls that a process holds at once, waiting or worked on; beyond them it is a 503."""
PAGE_FOLDER = Path(__file__).parent / "page"


class Service(FastAPI):
    """FastAPI inside layers that also see what it answers around its own middleware, such as 413 and 500."""

    runtime: Runtime

    def build_middleware_stack(self) -> ASGIApp:
        metrics = self.runtime.metrics
        app = RequestLog(SecurityHeaders(CallLimit(super().build_middleware_stack(), MAX_CALLS, metrics)), metrics)
        return app if self.runtime.tracing is None else TracedCalls(app, self.runtime.tracing.tracer)


def create_app(runtime: Runtime, crew: Crew | None = None) -> FastAPI:
    """The service. It owns `runtime` and closes it at the end. `crew`: the processes that serve the same port."""
    settings, metrics = runtime.settings, runtime.metrics
    keys = KeyRing(runtime.workspace.api_keys, settings.api_keys, monotonic)
    served = ServedLog(runtime.workspace.served)
    feed = runtime.open_feed(served, lambda: secrets.randbits(63))
    intake = runtime.open_intake(served)
    watcher = Watcher(runtime)
    erasure = open_erasure(runtime, served, feed)
    buckets: Buckets = SharedBuckets(crew.folder, monotonic) if crew else TokenBuckets(monotonic)
    shared = SharedMetrics(crew.folder, metrics.text) if crew else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # What answers in threads is work, not waiting: more of them than can run at once would only take turns at the
        # interpreter. Feeds have limits of their own.
        current_default_thread_limiter().total_tokens = REQUEST_THREADS
        now = runtime.clock.now()
        served.prune(now)
        feed.explanations.trim(now.timestamp())
        runtime.warm_up()
        if runtime.live is not None:
            runtime.live.tail.start()
        watcher.start()
        if shared is not None:
            shared.start()
        erasure.start()
        yield
        erasure.stop()
        watcher.stop()
        feed.close()
        served.close()
        runtime.close()
        if shared is not None:
            shared.stop()

    app = Service(
        title="Vitrine",
        version="1",
        summary="A ranked, personalised feed of posts, and the events that come back from it.",
        docs_url=None,  # the stock page loads scripts from outside
        redoc_url=None,
        lifespan=lifespan,
        max_body_size=MAX_BODY_BYTES,
    )
    app.include_router(feed_router(runtime, feed, served))
    app.include_router(explain_router(runtime, feed.explanations))
    app.include_router(events_router(intake))
    app.include_router(health_router(runtime, served, shared.text if shared else metrics.text))
    app.include_router(page_router(runtime, PAGE_FOLDER))
    app.include_router(browse_router(runtime))
    if runtime.live is not None:
        app.include_router(entities_router(lambda: entity_store(runtime)))
    app.mount("/static", StaticFiles(directory=PAGE_FOLDER), name="static")
    app.add_exception_handler(StoreUnavailableError, _unavailable)
    app.add_exception_handler(UnknownEntityError, _unknown)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _broken)
    app.runtime = runtime
    # Added last runs first: keys are asked for before a body is read.
    app.add_middleware(BodyNesting, metrics=metrics)
    app.add_middleware(
        CallerCheck,
        keys=keys,
        rate=settings.key_rate,
        buckets=buckets,
        is_loopback=is_loopback(settings.host),
        metrics=metrics,
    )
    app.add_middleware(
        TimeLimits, body_seconds=settings.body_seconds, answer_seconds=settings.answer_seconds, metrics=metrics
    )
    return app


def entity_store(runtime: Runtime) -> EntityStore:
    """Users, creators and posts over the snapshot that serves now. A call takes it once: rows are of one snapshot."""
    if runtime.live is None:
        raise AssertionError("a process whose catalogue does not live writes no entities")
    return EntityStore(runtime.live.view, runtime.journal, runtime.clock, runtime.catch_up)


def _malformed(request: Request, error: Exception) -> Response:
    """422 with the field and what was expected; what was sent is not echoed, it may be huge or not JSON."""
    complaints = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [
        {"type": c["type"], "loc": [writable(p) if isinstance(p, str) else p for p in c["loc"]], "msg": c["msg"]}
        for c in complaints
    ]
    return JSONResponse({"detail": detail}, status_code=422)


def _unknown(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=404)


def _broken(request: Request, error: Exception) -> Response:
    detail = "this call broke something here; its request id finds it in the log"
    return JSONResponse({"detail": detail}, status_code=500)


def _unavailable(request: Request, error: Exception) -> Response:
    # The message names files and hosts; the client needs only to know that trying again is right.
    return JSONResponse(
        {"detail": "a store does not answer; nothing of this request was kept, try again"},
        status_code=503,
        headers={"Retry-After": "1"},
    )
