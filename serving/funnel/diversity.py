"""How much each candidate adds to the posts already placed: MMR or a determinantal point process. Depends on numpy.

N candidates. Both give a gain within about 0..1 that is mixed with the relevance of a candidate,

    merit = (1 - weight) * relevance + weight * gain

MMR (Carbonell, Goldstein, SIGIR 1998): gain = -(greatest similarity to a post of the window).

DPP: gain = log det of I + G S over the window with the candidate, less that without it, over log(1 + G), with S
the similarity (ones on its diagonal) and G a constant. Greedy choice then maximises

    sum of (1 - weight) * relevance + weight * log det(I + G S_chosen) / log(1 + G)

within one window; that sum is monotone and submodular, so greedy reaches at least 1 - 1/e of the best set
(Nemhauser, Wolsey, Fisher 1978). The determinant is updated, not recomputed: the incremental Cholesky factor of
Chen, Zhang, Zhou, "Fast greedy MAP inference for determinantal point process", NeurIPS 2018, algorithm 1, and the
rotations of its algorithm 2 where the window drops its oldest post.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DPP_STRENGTH = 10.0
"""G: an exact copy of a placed post gains 0.27 of what a post unlike all of them does."""
_AT_ONCE = 512
"""Most candidates whose similarities are computed together."""


class Diversity(Protocol):
    """What the posts placed so far leave to gain."""

    def gains(self) -> NDArray[np.floating]:
        """Gain of each candidate, [N]; that of a placed one means nothing."""
        ...

    def place(self, choice: int) -> None:
        """Counts a candidate as placed."""
        ...


class Likeness:
    """Similarity of candidates: mean of equal topic and content cosine, of which either may be missing."""

    def __init__(
        self, topic_ids: NDArray[np.int64] | None, content: NDArray[np.float32] | None, num_candidates: int
    ) -> None:
        self._topic_ids = topic_ids
        self._content = content
        self._count = num_candidates
        self._kept: dict[float, NDArray[np.float32]] = {}

    def positive(self, place: int) -> NDArray[np.float32]:
        """To the candidate at `place`, within 0..1; opposite content counts as unlike, [N]; not to be written."""
        return self._row(place, 0.0)

    def row(self, place: int) -> NDArray[np.float32]:
        """Row of the positive semi-definite similarity, within -0.5..1, [N]."""
        row = self._row(place, -1.0).copy()
        row[place] = self.diagonal[place]
        return row

    @property
    def diagonal(self) -> NDArray[np.float32]:
        """Similarity of each candidate to itself, [N]; under 1 only for content without direction."""
        ones = np.ones(self._count, dtype=np.float32)
        if self._content is None:
            return ones
        squares = np.einsum("nd,nd->n", self._content, self._content)
        return np.asarray(squares if self._topic_ids is None else (ones + squares) / np.float32(2), dtype=np.float32)

    def _row(self, place: int, lowest: float) -> NDArray[np.float32]:
        if self._count > _AT_ONCE:
            return self._means(slice(place, place + 1), lowest)[0]
        # All rows in one go cost less than a few of them one by one.
        if lowest not in self._kept:
            self._kept[lowest] = self._means(slice(None), lowest)
        return self._kept[lowest][place]

    def _means(self, places: slice, lowest: float) -> NDArray[np.float32]:
        """Means of both, cosines not below `lowest`, [M, N]."""
        topics, content = self._topic_ids, self._content
        if content is None:
            means = np.zeros((len(range(self._count)[places]), self._count), dtype=np.float32)
        else:
            means = np.clip(content[places] @ content.T, np.float32(lowest), np.float32(1))
        if topics is not None:
            if content is not None:
                means *= np.float32(0.5)
            wanted = topics[places, None]
            means[(topics == wanted) & (wanted >= 0)] += np.float32(1.0 if content is None else 0.5)
        return means


class Mmr:
    """Distance from the last `window` placed posts."""

    def __init__(self, likeness: Likeness, num_candidates: int, window: int) -> None:
        self._likeness = likeness
        self._rows = np.zeros((window, num_candidates), dtype=np.float32)
        """Minus the similarity to each post of the window; similarities are never below 0."""
        self._next = 0

    def gains(self) -> NDArray[np.floating]:
        """Minus the greatest similarity, [N]."""
        return np.minimum.reduce(self._rows, axis=0)

    def place(self, choice: int) -> None:
        """Counts a candidate as placed."""
        np.negative(self._likeness.positive(choice), out=self._rows[self._next])
        self._next = (self._next + 1) % len(self._rows)


class Dpp:
    """Volume that a candidate adds to that of the last `window` placed posts."""

    def __init__(self, likeness: Likeness, num_candidates: int, window: int) -> None:
        self._likeness = likeness
        self._window = window
        self._variances = 1.0 + DPP_STRENGTH * likeness.diagonal.astype(np.float64)
        self._placed: list[int] = []
        self._rows: list[NDArray[np.float64]] = []
        """Rows of L^-1 K, where L is the Cholesky factor of the window's part of the kernel K."""

    def gains(self) -> NDArray[np.floating]:
        """Growth of the log determinant, [N]."""
        return np.asarray(np.log(np.maximum(self._variances, 1.0)) / np.log(1.0 + DPP_STRENGTH))

    def place(self, choice: int) -> None:
        """Counts a candidate as placed."""
        if len(self._placed) >= self._window:
            self._forget_oldest()
        row = DPP_STRENGTH * self._likeness.row(choice).astype(np.float64)
        row[choice] += 1.0
        for known in self._rows:
            row -= known[choice] * known
        row /= np.sqrt(max(float(self._variances[choice]), 1.0))
        self._rows.append(row)
        self._placed.append(choice)
        self._variances = self._variances - row * row

    def _forget_oldest(self) -> None:
        rest, self._placed = self._rows[0], self._placed[1:]
        self._rows = self._rows[1:]
        for place, shown in enumerate(self._placed):
            row = self._rows[place]
            length = np.hypot(row[shown], rest[shown])
            cosine, sine = row[shown] / length, rest[shown] / length
            self._rows[place], rest = cosine * row + sine * rest, cosine * rest - sine * row
        self._variances = self._variances + rest * rest
