"""Waiting in tests: until something is so, bounded in time."""

import time
from collections.abc import Callable


def soon(is_so: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether it became so in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def until(is_so: Callable[[], object], seconds: float, what: str = "it never became so") -> None:
    """Returns once it is so, fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
