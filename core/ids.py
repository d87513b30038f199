"""Outside ids are strings; inside they are int64, mapped once, stably and without a table of state.

Integers that a dataset already numbers densely are kept. Other strings take the first 63 bits of
their SHA-256, so that two importers, a server and a replay agree without talking to each other.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

MAX_ID = 2**63 - 1


def internal_id(external: str) -> int:
    """The int64 for an outside id: itself when it is a canonical non-negative number, else a hash."""
    if external.isascii() and external.isdigit() and (external == "0" or external[0] != "0"):
        number = int(external)
        if number < 2**53:
            return number
    return int.from_bytes(hashlib.sha256(external.encode()).digest()[:8], "big") >> 1


def internal_ids(external: list[str]) -> NDArray[np.int64]:
    """`internal_id` of each, [N]."""
    return np.fromiter((internal_id(e) for e in external), dtype=np.int64, count=len(external))


def request_id_text(request_id: int) -> str:
    """A request id as the API writes it: 16 hex digits."""
    return f"{request_id:016x}"


def request_id_number(text: str) -> int:
    """The request id that the API wrote as `text`. Raises ValueError for anything else."""
    number = int(text, 16)
    if len(text) != 16 or not 0 <= number <= MAX_ID:
        raise ValueError(f"request id {text!r} is not 16 hex digits below 2^63")
    return number
