"""A real HTTP server around the app, on a free loopback port, in a thread."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from serving.app import create_app
from serving.bootstrap import Runtime


@contextmanager
def running(runtime: Runtime, **options: object) -> Iterator[str]:
    """The base URL while the server runs; `options` go to uvicorn."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(runtime), lifespan="on", ws="none", **{"log_level": "error", **options})
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _wait(url)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(10)


def _wait(url: str) -> None:
    for _ in range(1_000):
        try:
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"no server at {url}")
