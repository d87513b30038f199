"""Runs the service with uvicorn."""

import signal
import socket
from functools import partial
from time import monotonic

import uvicorn
from fastapi import FastAPI

from core.clock import Clock
from core.errors import ConfigError
from core.logs import logger
from core.memory import leave_loaded_objects_alone, share_arenas_among_threads
from core.settings import Settings
from serving.api_keys import read_keys
from serving.app import create_app
from serving.bootstrap import build_runtime
from serving.crew import Crew, gathered
from serving.feature_guard import GuardedReader
from serving.funnel.ports import FeatureReader
from serving.parts import open_reader
from serving.redis_keeper import RedisKeeper
from serving.security import require_keys_beyond_loopback
from serving.workers import run_workers

MAX_CONNECTIONS = 900
"""Beyond them uvicorn answers 503 and hangs up, before the usual limit of 1,024 open files stops it from accepting."""


def serve(settings: Settings, workers: int = 1, reader: FeatureReader | None = None) -> None:
    """Serves in `workers` processes until told to stop; SIGHUP reads specs and models again.

    `reader`: another feature store than the workspace's. Raises ConfigError before listening where keys are missing.
    """
    has_keys = bool(settings.api_keys or read_keys(settings.workspace.api_keys))
    require_keys_beyond_loopback(settings.host, has_keys)
    if not has_keys:
        logger("serving").warning(
            "no API keys: every program of this machine may read every feed and post events; "
            "`python -m serving keys add NAME --role read` makes the first key, and from then on one is needed"
        )
    if workers > 1 and reader is not None:
        raise ConfigError("a feature store that is given is open already and serves one process; leave workers at 1")
    share_arenas_among_threads()
    if workers == 1:
        serve_one(settings, reader=reader)
        return
    # An anchored clock begins with its making: one for all, or a process that replaces another would live earlier.
    clock = settings.workspace.clock(settings.clock)
    with gathered() as crew:
        run_workers(
            workers, settings.host, settings.port, partial(serve_one, settings, clock=clock, crew=crew), crew.ended
        )


def serve_one(
    settings: Settings,
    listener: socket.socket | None = None,
    *,
    reader: FeatureReader | None = None,
    clock: Clock | None = None,
    crew: Crew | None = None,
) -> None:
    """Serves in this process, on `listener` where the port is shared by a crew. Everything is opened here."""
    reader = reader or open_reader(settings.workspace, settings.feature_seconds)
    guarded = GuardedReader(reader, monotonic, missed=RedisKeeper(settings))
    runtime = build_runtime(settings, reader=guarded, clock=clock, is_live=True)
    signal.signal(signal.SIGHUP, lambda *_: runtime.funnels.asked.set())
    server = uvicorn.Server(uvicorn_config(create_app(runtime, crew), settings))
    leave_loaded_objects_alone()
    server.run(None if listener is None else [listener])


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How the service speaks HTTP."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        log_config=None,  # uvicorn's lines take the form of ours
        log_level=settings.log_level.lower(),
        access_log=False,  # a query string names users
        server_header=False,
        timeout_keep_alive=30,
        limit_concurrency=MAX_CONNECTIONS,
    )
