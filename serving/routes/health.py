"""Liveness, readiness and metrics."""

from collections.abc import Callable

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response

from core.errors import VitrineError
from events.served import ServedLog
from serving.bootstrap import Runtime
from serving.schemas import Health, Readiness

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def health_router(runtime: Runtime, served: ServedLog, metrics: Callable[[], bytes]) -> APIRouter:
    """Routes for machines that watch the service; `metrics` in Prometheus' text format."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", response_model=Health)
    async def read_health() -> Health:  # waits for no thread
        """The process lives."""
        return Health()

    @router.get("/readyz", response_model=Readiness)
    def read_readiness() -> Readiness:
        """Feeds are served; `degraded` names what they do without right now."""
        # Before the funnels: an exchange meanwhile may then only be told one answer late.
        spec_refused = runtime.funnels.spec_refused
        degraded = list(runtime.degraded())
        if runtime.live is not None:
            degraded += runtime.live.degraded
        degraded += _features_missing(runtime)
        if runtime.journal.is_failing:
            degraded.append("journal")
        if served.is_failing:
            degraded.append("served_log")
        return Readiness(
            is_ready=True,
            degraded=degraded,
            stand_ins=list(runtime.parts.stand_ins),
            spec_version=runtime.spec.version,
            surfaces={name: spec.version for name, spec in runtime.funnels.current.specs.items()},
            spec_refused=spec_refused,
            models_refused=list(runtime.funnels.models_refused),
            snapshot_refused=runtime.funnels.snapshot_refused,
            model_versions=runtime.funnel.model_versions,
            snapshot_id=runtime.snapshot.snapshot_id,
            now=runtime.clock.now(),
        )

    @router.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Prometheus metrics, of all processes of the server."""
        return Response(metrics(), media_type=METRICS_TYPE)

    return router


def _features_missing(runtime: Runtime) -> list[str]:
    """`features` where the store does not answer, `user_features` where it knows none of the most active users."""
    users = np.array([user.user_id for user in runtime.snapshot.sample_users] or [0], dtype=np.int64)
    try:
        columns = runtime.parts.reader.read("user", users, ("user_profile",))
    except VitrineError:
        return ["features"]
    knows_somebody = (columns["user_profile__registered_at"] >= 0).any()
    return [] if knows_somebody or not runtime.snapshot.sample_users else ["user_features"]
