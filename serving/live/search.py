"""Vector search over an index and the few posts that came after it, searched together and merged in the background."""

from threading import Lock, Thread
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from core.logs import logger
from serving.funnel.eligible import EligiblePosts
from serving.funnel.ports import VectorSearch

MERGE_AT = 10_000
"""Vectors beside the index from which on they go into it; scanning as many takes about half a millisecond."""


@runtime_checkable
class Mergeable(Protocol):
    """A search that can take vectors in."""

    def merged(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> VectorSearch: ...


@runtime_checkable
class Partial(Protocol):
    """A search that knows which posts it does not hold."""

    def lacking(self) -> NDArray[np.int64]: ...


class _Parts(NamedTuple):
    """What one search looks at; replaced as a whole."""

    main: VectorSearch
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


class LiveSearch:
    """`main` and a delta beside it that is scanned exactly. A vector in the delta overrules the main one."""

    def __init__(self, main: VectorSearch, merge_at: int = MERGE_AT) -> None:
        self._parts = _Parts(main, np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32))
        self._merge_at = merge_at
        self._writing = Lock()
        self._merger: Thread | None = None

    def __len__(self) -> int:
        """Vectors in the delta."""
        return len(self._parts.rows)

    def put(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> None:
        """Vectors by catalogue row, found from the next search on."""
        with self._writing:
            main, held, vectors = self._parts
            keep = ~np.isin(held, rows)
            vectors = vectors.reshape(-1, vectors_ND.shape[1])
            self._parts = _Parts(main, np.concatenate([held[keep], rows]), np.concatenate([vectors[keep], vectors_ND]))
            is_large = len(self._parts.rows) >= self._merge_at and isinstance(main, Mergeable)
            if is_large and (self._merger is None or not self._merger.is_alive()):
                self._merger = Thread(target=self._merge, name="index-merge", daemon=True)
                self._merger.start()

    def lacking(self) -> NDArray[np.int64]:
        """Rows of the catalogue that neither part holds."""
        main, held, _ = self._parts
        return np.setdiff1d(main.lacking(), held) if isinstance(main, Partial) else np.empty(0, dtype=np.int64)

    def wait(self) -> None:
        """Returns when no merge is under way."""
        if self._merger is not None:
            self._merger.join()

    def search(
        self, vector_D: NDArray[np.float32], k: int, eligible: EligiblePosts
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Catalogue rows and scores, best first, at most `k`."""
        main, rows_M, vectors_MD = self._parts
        if not len(rows_M):
            return main.search(vector_D, k, eligible)
        rows, scores = main.search(vector_D, k, eligible.less(rows_M))
        may = eligible.among(rows_M)
        rows = np.concatenate([rows, rows_M[may]])
        scores = np.concatenate([scores, (vectors_MD @ vector_D)[may].astype(np.float64)])
        best = np.argsort(-scores, kind="stable")[:k]
        return rows[best], scores[best]

    def _merge(self) -> None:
        main, rows, vectors = self._parts
        if not isinstance(main, Mergeable):
            return
        try:
            merged = main.merged(rows, vectors)
        except Exception:
            logger("serving").exception("the index could not be merged", posts=len(rows))
            return
        with self._writing:
            _, now_rows, now_vectors = self._parts
            # What was written meanwhile, a newer vector of the same post included, stays beside the new index.
            place = {row: i for i, row in enumerate(rows.tolist())}
            is_new = np.array(
                [i not in place or not np.array_equal(v, vectors[place[i]])
                 for i, v in zip(now_rows.tolist(), now_vectors, strict=True)], dtype=np.bool_,
            )  # fmt: skip
            self._parts = _Parts(merged, now_rows[is_new], now_vectors[is_new])
