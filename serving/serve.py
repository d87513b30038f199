"""Runs the service with uvicorn."""

import uvicorn

from core.settings import Settings
from serving.app import create_app
from serving.bootstrap import build_runtime
from serving.security import require_keys_beyond_loopback


def serve(settings: Settings) -> None:
    """Serves until it is told to stop. Raises ConfigError before listening where keys are missing."""
    require_keys_beyond_loopback(settings.host, settings.api_keys)
    app = create_app(build_runtime(settings, is_live=True))
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
