"""Ids and words to rows of an embedding table: stable across processes, machines and versions.

Row 0 is null. A non-negative id that fits below the table's last row takes its own row, so that a
densely numbered entity has no collisions; every other id is hashed over rows 1 to num_rows - 1.
"""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64, elementwise. Source: Steele, Lea, Flood, OOPSLA 2014."""
    z = values + _GAMMA
    z = (z ^ (z >> _SHIFTS[0])) * _MIX_1
    z = (z ^ (z >> _SHIFTS[1])) * _MIX_2
    return z ^ (z >> _SHIFTS[2])


@lru_cache(maxsize=4096)
def _word_hash(salt: str, word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8, key=salt.encode()[:64]).digest(), "little")


@lru_cache(maxsize=1024)
def _salt(table: str) -> np.uint64:
    return np.uint64(_word_hash("table", table))


def hashed_ids(values: NDArray[np.int64], table: str, num_rows: int) -> NDArray[np.int64]:
    """Rows 1 to `num_rows` - 1 by hash, same shape; null is hashed like any other."""
    spread = splitmix64(values.view(np.uint64) ^ _salt(table)) % np.uint64(num_rows - 1)
    return spread.view(np.int64) + 1


def rows_of_ids(ids: NDArray[np.int64], table: str, num_rows: int) -> NDArray[np.int64]:
    """Row of each id, same shape; a negative id is null and takes row 0."""
    if ids.size and ids.max() >= num_rows - 1:
        rows = np.where(ids < num_rows - 1, ids + 1, hashed_ids(ids, table, num_rows))
        return np.where(ids < 0, 0, rows)
    return np.maximum(ids, -1) + 1


def rows_of_codes(codes: NDArray[np.int64], table: str, num_rows: int) -> NDArray[np.int64]:
    """Row of each code [N, L]; equal codes at different positions take different rows, null stays -1."""
    positions = (np.arange(codes.shape[1], dtype=np.int64) + 1) << np.int64(40)
    return np.where(codes < 0, -1, hashed_ids(codes + positions, table, num_rows))


class _WordRows(dict[object, int]):
    """Row by word, filled on first sight, so that a million words cost a million lookups."""

    def __init__(self, table: str, num_rows: int) -> None:
        super().__init__({"": 0, None: 0})
        self._table, self._num_rows = table, num_rows

    def __missing__(self, word: object) -> int:
        self[word] = row = 1 + _word_hash(self._table, str(word)) % (self._num_rows - 1)
        return row


def rows_of_words(words: NDArray[Any], table: str, num_rows: int) -> NDArray[np.int64]:
    """Row of each word [N]; the empty word is null and takes row 0."""
    rows = _WordRows(table, num_rows)
    return np.fromiter(map(rows.__getitem__, words.tolist()), dtype=np.int64, count=len(words))
