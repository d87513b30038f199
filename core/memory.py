"""What the process does with memory that is freed."""

import ctypes
import gc
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt."""
KEPT_BYTES = 2**31 - 1
"""Freed bytes at the end of the heap that are not given back; the most that the parameter takes."""

SELDOM = (2_000, 10, 1_000)
"""Thresholds of the collector for a server. Nearly all that is freed is freed by its count of references, and a full
collection over the lists of a few thousand visits stops every request for a fifth of a second: one in twenty
million new objects, not in seventy thousand."""


def keep_freed_memory() -> None:
    """From now on freed memory stays with the process for its next allocation; for jobs that end, not for servers.

    glibc asks the kernel for every large block anew, page by page, and training frees blocks of the same
    sizes in every step. Without glibc nothing changes.
    """
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, KEPT_BYTES)


def share_arenas_among_threads() -> None:
    """From now on threads allocate from two arenas, for a server with many threads of which few work at once.

    glibc gives threads up to eight arenas per core, and each keeps what its thread has freed: 28 MB of 270 in a
    server process after some thousand feeds. Call it before the first thread. Without glibc nothing changes.
    """
    _set(M_ARENA_MAX, 2)


def _set(parameter: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)


def leave_loaded_objects_alone() -> None:
    """Takes everything that is loaded by now out of garbage collection, for a process that serves from here on.

    Libraries and models are millions of objects: a full collection over them stops every request for half a second,
    and in a forked process it writes to, and so copies, memory that all processes share.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
