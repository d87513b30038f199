"""Work done before it is asked for: one background thread and a short queue; what finds no room is not done."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from core.logs import logger

MAX_WAITING = 32


class Prefetcher:
    """Runs jobs in the background. A job that fails is logged; whoever needed it does the work again."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._room = BoundedSemaphore(max_waiting)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def submit(self, job: Callable[[], None]) -> bool:
        """Whether the job will be run."""
        if not self._room.acquire(blocking=False):
            return False
        try:
            self._pool.submit(self._run, job)
        except RuntimeError:  # the process is closing
            self._room.release()
            return False
        return True

    def close(self) -> None:
        """Waits for the job under way and drops the others."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # a background thread must not die, whatever a job did
            logger("serving").warning("prefetch failed", reason=type(error).__name__)
        finally:
            self._room.release()
