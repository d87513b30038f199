"""Trending as it streams: the snapshot's decayed sums and what engagements add to them. Pure numpy and dicts."""

import heapq

import numpy as np

from serving.snapshot import Catalogue, Lists, Ragged

HALF_LIFE_SECONDS = 6 * 3600.0
LIST_LENGTH = 1_000
MAX_POSTS = 20_000
"""Posts with a sum; beyond twice as many the smallest are forgotten."""
_MAX_EXPONENT = 500.0


class LiveLists(Lists):
    """The snapshot's lists, of which the trending ones are replaced while it serves."""

    def __init__(self, base: Lists) -> None:
        super().__init__(
            base.neighbours, base.trending, base.trending_by_language, base.popular, base.popular_by_country,
            base.popular_by_language,
        )  # fmt: skip

    def replace_trending(self, everywhere: Ragged, by_language: Ragged) -> None:
        """Puts new lists in the place of the old ones; a request that reads meanwhile gets one or the other."""
        object.__setattr__(self, "trending", everywhere)
        object.__setattr__(self, "trending_by_language", by_language)


class Trending:
    """Sum per post of weight × 2^(-age / half-life). Sums are kept as of one instant, so that time costs nothing.

    Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay", ICDE 2009.
    """

    def __init__(self, base: Lists, as_of: float) -> None:
        self._at = as_of
        self.latest = as_of
        """When the newest of what is counted happened, unix seconds."""
        self._sums: dict[int, float] = {}
        for lists in (base.trending, base.trending_by_language):
            for row, weight in zip(lists.values.tolist(), lists.weights.tolist(), strict=True):
                self._sums[row] = max(weight, self._sums.get(row, 0.0))

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, row: int, weight: float, at: float) -> None:
        """Counts an engagement at `at`, unix seconds; one without positive weight counts nothing."""
        if weight <= 0.0:
            return
        self.latest = max(self.latest, at)
        if (at - self._at) / HALF_LIFE_SECONDS > _MAX_EXPONENT:
            self._move_to(at)
        grown = weight * 2.0 ** ((at - self._at) / HALF_LIFE_SECONDS)
        self._sums[row] = self._sums.get(row, 0.0) + grown
        if len(self._sums) > 2 * MAX_POSTS:
            self._sums = dict(heapq.nlargest(MAX_POSTS, self._sums.items(), key=lambda item: item[1]))

    def lists(self, catalogue: Catalogue, now: float) -> tuple[Ragged, Ragged]:
        """Rows and sums as of `now`, best first: of everyone, and by language of the post.

        As of the instant of the sums where `now` lies before it, as it does on a clock that was set back.
        """
        rows = np.fromiter(self._sums, dtype=np.int64, count=len(self._sums))
        sums = np.fromiter(self._sums.values(), dtype=np.float64, count=len(self._sums))
        keep = catalogue.is_recommendable[rows]
        rows, sums = rows[keep], sums[keep] * 2.0 ** (min(0.0, self._at - now) / HALF_LIFE_SECONDS)
        order = np.lexsort((rows, -sums))
        rows, sums = rows[order], sums[order]
        codes = catalogue.language_codes[rows]
        by_language = [np.flatnonzero(codes == code)[:LIST_LENGTH] for code in range(len(catalogue.languages))]
        return _ragged(rows, sums, [np.arange(len(rows))[:LIST_LENGTH]]), _ragged(rows, sums, by_language)

    def _move_to(self, at: float) -> None:
        """Makes `at` the instant of the sums."""
        shrunk = 2.0 ** ((self._at - at) / HALF_LIFE_SECONDS)
        self._sums = {row: value * shrunk for row, value in self._sums.items() if value * shrunk > 0.0}
        self._at = at


def _ragged(rows: np.ndarray, sums: np.ndarray, lists: list[np.ndarray]) -> Ragged:
    offsets = np.cumsum([0, *(len(places) for places in lists)]).astype(np.int64)
    places = np.concatenate(lists).astype(np.int64) if lists else np.empty(0, dtype=np.int64)
    return Ragged(offsets, rows[places], sums[places].astype(np.float32))
