"""OpenTelemetry traces: a span per HTTP call and below it one per stage. Off unless OTEL_* variables ask for them.

    OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 make serve

Everything else (headers, sampler, service name, batch sizes, OTEL_SDK_DISABLED) is read by the SDK itself. Where
traces are off nothing here is imported and the funnel has no second observer.
"""

from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.clock import WallClock
from core.settings import Settings
from serving.funnel.ports import Observer
from serving.funnel.request import StageReport

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer


class Tracing:
    """One process's tracer and where its spans go."""

    def __init__(self, tracer: "Tracer", provider: "TracerProvider") -> None:
        self.tracer = tracer
        self._provider = provider

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def open_tracing(settings: Settings) -> Tracing | None:
    """Tracing as the OTEL_* variables ask for, None where they do not."""
    if settings.otel_traces_exporter == "none":
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if settings.otel_traces_exporter == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES overrule what is given here.
    provider = TracerProvider(resource=Resource({"service.name": "vitrine"}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider.get_tracer("vitrine.serving"), provider)


class TracedStages:
    """Tells `observer` everything and makes a span of each stage, below the span of the call."""

    def __init__(self, observer: Observer, tracer: "Tracer") -> None:
        self._observer = observer
        self._tracer = tracer

    def stage(self, report: StageReport) -> None:
        self._observer.stage(report)
        # Reports come when the funnel is through: how long ago each ended is known, and how long it took.
        ended_ns = _now_ns() - int((perf_counter() - report.ended) * 1e9)
        removed = {f"removed.{reason}": count for reason, count in report.removed.items()}
        span = self._tracer.start_span(
            f"stage {report.name}",
            start_time=ended_ns - int(report.seconds * 1e9),
            attributes={"num_in": report.num_in, "num_out": report.num_out, **removed},
        )
        span.end(end_time=ended_ns)

    def degraded(self, part: str) -> None:
        self._observer.degraded(part)
        _current_span().add_event("degraded", {"part": part})

    def out_of_bounds(self, feature: str, values: int) -> None:
        self._observer.out_of_bounds(feature, values)


class TracedCalls:
    """A server span around every call, continuing the trace that the client names in `traceparent`."""

    def __init__(self, app: ASGIApp, tracer: "Tracer") -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        with self._tracer.start_as_current_span(
            "call", context=context, kind=SpanKind.SERVER, record_exception=False
        ) as span:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = getattr(scope.get("route"), "path", None) or "other"
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
                    span.set_attribute("http.response.status_code", message["status"])
                    request_id = Headers(raw=message["headers"]).get("x-request-id")
                    span.set_attribute("vitrine.request_id", request_id or "")
                await send(message)

            await self._app(scope, receive, noted)


def _current_span() -> Any:
    from opentelemetry.trace import get_current_span

    return get_current_span()


def _now_ns() -> int:
    return int(WallClock().now().timestamp() * 1e6) * 1000
