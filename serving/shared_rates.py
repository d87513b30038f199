"""Token buckets that several processes take from: a mapped file of 16 bytes per name, under a lock of its own."""

import fcntl
import os
import struct
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap
from pathlib import Path

from serving.rates import refilled

_LAYOUT = struct.Struct("<dd")
"""Tokens, and when they were counted, in seconds of a clock that all processes read alike."""
ATTEMPTS = 50


class SharedBuckets:
    """`TokenBuckets` over all processes that were given the same folder. One thread per process."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self._folder = folder
        self._now = now
        self._open: dict[str, tuple[int, mmap]] = {}

    def take(self, name: str, rate: float) -> float:
        """0 when the call may go on, else seconds until it may. `rate` in calls per second; 0 is no limit."""
        if rate <= 0:
            return 0.0
        descriptor, mapped = self._open.get(name) or self._opened(name)
        is_locked = _lock(descriptor)
        try:
            # A new file holds zeros: counted at the beginning of time, so it is full by now.
            tokens, counted_at = _LAYOUT.unpack_from(mapped)
            tokens, now = refilled(tokens, counted_at, self._now(), rate)
            is_allowed = tokens >= 1.0
            _LAYOUT.pack_into(mapped, 0, tokens - is_allowed, now)
        finally:
            if is_locked:
                fcntl.lockf(descriptor, fcntl.LOCK_UN)
        return 0.0 if is_allowed else (1.0 - tokens) / rate

    def _opened(self, name: str) -> tuple[int, mmap]:
        path = self._folder / f"{blake2b(name.encode(), digest_size=12).hexdigest()}.bucket"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, _LAYOUT.size)
        self._open[name] = descriptor, mmap(descriptor, _LAYOUT.size)
        return self._open[name]


def _lock(descriptor: int) -> bool:
    """Whether the lock is held. A process that was frozen while it held it must not stop the others: they go on."""
    for _ in range(ATTEMPTS):
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.sched_yield()
        else:
            return True
    return False
