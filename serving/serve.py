"""Runs the service with uvicorn."""

import socket

import uvicorn
from fastapi import FastAPI

from core.memory import leave_loaded_objects_alone
from core.settings import Settings
from serving.app import create_app
from serving.bootstrap import build_runtime
from serving.security import require_keys_beyond_loopback
from serving.workers import run_workers


def serve(settings: Settings, workers: int = 1) -> None:
    """Serves in `workers` processes until told to stop. Raises ConfigError before listening where keys are missing."""
    require_keys_beyond_loopback(settings.host, settings.api_keys)
    if workers == 1:
        serve_one(settings)
    else:
        run_workers(workers, settings.host, settings.port, lambda listener: serve_one(settings, listener))


def serve_one(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serves in this process, on `listener` where the port is shared."""
    app = create_app(build_runtime(settings))
    server = uvicorn.Server(uvicorn_config(app, settings))
    leave_loaded_objects_alone()
    server.run(None if listener is None else [listener])


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the service speaks HTTP."""
    return uvicorn.Config(
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
