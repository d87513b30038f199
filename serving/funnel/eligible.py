"""The posts that one request may show, as a set: what all requests share, less a few. Depends on nothing but numpy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SharedCodes:
    """Codes [P] that all requests of one language, country and hour begin with. Equal only to itself."""

    codes: NDArray[np.uint8]

    @cached_property
    def num_eligible(self) -> int:
        return len(self.codes) - int(np.count_nonzero(self.codes))


@dataclass(frozen=True)
class EligiblePosts:
    """What one request may show: the posts that `shared` leaves in, less `excluded` rows (repeats are harmless)."""

    shared: SharedCodes
    excluded: NDArray[np.int64]

    @cached_property
    def count(self) -> int:
        """Number of eligible posts; costs as much as there are excluded ones."""
        own = np.unique(self.excluded)
        return self.shared.num_eligible - len(own) + int(np.count_nonzero(self.shared.codes[own]))

    def less(self, rows: NDArray[np.int64]) -> "EligiblePosts":
        """The same without these rows of the catalogue."""
        return EligiblePosts(self.shared, np.concatenate([self.excluded, rows]))

    def among(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row may be shown, [N]; costs as much as there are rows and excluded ones."""
        return np.asarray((self.shared.codes[rows] == 0) & ~np.isin(rows, self.excluded))

    def mask(self) -> NDArray[np.bool_]:
        """Whether each post of the catalogue may be shown, [P]; costs as much as there are posts."""
        is_eligible = self.shared.codes == 0
        is_eligible[self.excluded] = False
        return is_eligible


def nothing_eligible() -> tuple[NDArray[np.uint8], EligiblePosts]:
    """Codes and set of an empty catalogue, before a request was judged."""
    codes = np.empty(0, dtype=np.uint8)
    return codes, EligiblePosts(SharedCodes(codes), np.empty(0, dtype=np.int64))
