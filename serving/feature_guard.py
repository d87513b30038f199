"""A circuit breaker in front of the feature store: one request finds out that it is gone, the others do not wait."""

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from core.errors import StoreUnavailableError
from feature_repo.columns import Columns
from serving.funnel.ports import FeatureReader

PAUSE_SECONDS = 1.0
"""How long reads are refused after one found no answer; then a single read tries again."""


class GuardedReader:
    """Reads through `reader` while that answers. Threads may share it."""

    def __init__(
        self,
        reader: FeatureReader,
        now: Callable[[], float],
        pause_seconds: float = PAUSE_SECONDS,
        missed: Callable[[], None] = lambda: None,
    ) -> None:
        """`missed` is told after each read that found no answer."""
        self._reader = reader
        self._now = now
        self._pause_seconds = pause_seconds
        self._missed = missed
        self._lock = Lock()
        self._closed_until: float | None = None
        self._reason = ""

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str]) -> Columns:
        """As the reader's own. Raises StoreUnavailableError at once during a pause."""
        self._enter()
        try:
            columns = self._reader.read(entity, ids, views)
        except StoreUnavailableError as error:
            with self._lock:
                self._closed_until = self._now() + self._pause_seconds
                self._reason = str(error)
            self._missed()
            raise
        self._closed_until = None
        return columns

    def _enter(self) -> None:
        if self._closed_until is None:
            return
        with self._lock:
            if self._closed_until is not None and self._now() < self._closed_until:
                raise StoreUnavailableError(f"the feature store is left alone for a moment: {self._reason}")
            # This read tries; until it knows, the others still do not wait.
            self._closed_until = self._now() + self._pause_seconds
