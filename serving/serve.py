"""Runs the service with uvicorn."""

import signal

import uvicorn

from core.settings import Settings
from serving.app import create_app
from serving.bootstrap import build_runtime
from serving.security import require_keys_beyond_loopback


def serve(settings: Settings) -> None:
    """Serves until it is told to stop; SIGHUP reads specs and models again.

    Raises ConfigError before listening where keys are missing.
    """
    require_keys_beyond_loopback(settings.host, settings.api_keys)
    runtime = build_runtime(settings, is_live=True)
    signal.signal(signal.SIGHUP, lambda *_: runtime.funnels.asked.set())
    app = create_app(runtime)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_level=settings.log_level.lower(),
        access_log=False,  # a query string names users
        server_header=False,
        timeout_keep_alive=30,
        limit_concurrency=512,
    )
