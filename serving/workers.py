"""Several server processes on one port: forked from one that has the libraries loaded, started again when one dies.

Every process listens with SO_REUSEPORT, so that the kernel deals connections out evenly. Nothing but memory that is
only read is shared: each process opens its own journal, served log and connections.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

from core.errors import ConfigError, VitrineError
from core.logs import logger
from core.memory import leave_loaded_objects_alone

EARLY_SECONDS = 10.0
"""A process that ends sooner than this after its start most likely cannot start."""
MAX_EARLY_DEATHS = 3
"""As many in a row end the server, unless another of its processes has lived longer: then it goes on with that one."""
MAX_PAUSE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Serve = Callable[[socket.socket], None]


def listener(host: str, port: int) -> socket.socket:
    """A socket bound to the address, to be shared by port; port 0 takes a free one. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another port with --port") from error
    return bound


def run_workers(
    count: int, host: str, port: int, serve: Serve, ended: Callable[[int], None] = lambda process: None
) -> None:
    """Runs `serve` in `count` processes until told to stop. Raises VitrineError when they cannot start.

    `ended` is told the id of each process that is over.
    """
    with listener(host, port) as reserved:  # bound, never listening: it only keeps the port
        _preload()
        _Pool(count, lambda: serve(listener(host, reserved.getsockname()[1])), ended).run()


def _preload() -> None:
    """Loads what every process needs, so that they share its memory."""
    # Imported on first use otherwise: what Feast finds by the names in feature_store.yaml, and the graphs' runtime.
    import feast.infra.passthrough_provider
    import feast.infra.registry.file
    import feast.repo_operations  # noqa: F401
    import onnxruntime  # noqa: F401

    import feature_repo.online
    import feature_repo.stores.asof  # noqa: F401

    leave_loaded_objects_alone()


class _Pool:
    def __init__(self, count: int, serve: Callable[[], None], ended: Callable[[int], None]) -> None:
        self._count = count
        self._serve = serve
        self._ended = ended
        self._started: dict[int, float] = {}
        self._early_deaths = 0
        self._has_failed = False
        self._is_stopping = False

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda number, _: self._tell(number))
        for _ in range(self._count):
            self._start()
        while self._started:
            process, status = os.waitpid(-1, 0)
            lived = monotonic() - self._started.pop(process, monotonic())
            if not self._is_stopping:
                self._replace(process, status, lived)
            self._ended(process)
        if self._has_failed:
            raise VitrineError("server processes end right after their start; the log above says why")

    def _start(self) -> None:
        # A signal meanwhile would miss the new process, or find the parent's handlers in it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
        process = os.fork()
        if process:
            self._started[process] = monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
            return
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `serve` listens to it: what it opens is new anyway
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            self._serve()
            status = 0
        except VitrineError as error:
            logger("serving").error("server process cannot start", reason=str(error))
        except BaseException as error:
            logger("serving").error("server process failed", kind=type(error).__name__, reason=str(error))
        finally:
            os._exit(status)  # the parent's stack is not this process's to unwind

    def _replace(self, process: int, status: int, lived: float) -> None:
        self._early_deaths = self._early_deaths + 1 if lived < EARLY_SECONDS else 0
        if self._early_deaths >= MAX_EARLY_DEATHS and not self._has_one_that_lives():
            self._has_failed = True
            self._stop(signal.SIGTERM, None)
            return
        logger("serving").warning("server process ended, starting another", process=process, status=status)
        sleep(min(MAX_PAUSE_SECONDS, 0.2 * self._early_deaths))
        if not self._is_stopping:  # told to while it slept
            self._start()

    def _has_one_that_lives(self) -> bool:
        return any(monotonic() - started > EARLY_SECONDS for started in self._started.values())

    def _stop(self, number: int, frame: object) -> None:
        self._is_stopping = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for process in list(self._started):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, number)
