"""Which candidates a position may take, rule by rule. Depends on nothing but numpy.

N candidates. Each rule narrows what the one before it left, and yields where nothing would be left:

1. a pin puts one candidate at one position;
2. creator window: no creator twice within `creator_window` + 1 positions;
3. exposure floor: for every n, at least floor(share * n) of the first n posts are of small creators;
4. source slot: positions first, first + every, ... take a candidate of one source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CREATOR_WINDOW, EXPOSURE_FLOOR, SOURCE_SLOT, PINNED = "creator_window", "exposure_floor", "source_slot", "pinned"


@dataclass(frozen=True)
class ExposureFloor:
    """A share of the posts that goes to small creators, and whose creators are small, [N]."""

    share: float
    is_small: NDArray[np.bool_]


@dataclass(frozen=True)
class SourceSlot:
    """Every `every`-th position from `first` on takes a candidate of one source, [N]."""

    first: int
    every: int
    is_from: NDArray[np.bool_]

    def is_at(self, position: int) -> bool:
        """Whether the position belongs to the source."""
        return position >= self.first and (position - self.first) % self.every == 0


@dataclass(frozen=True)
class Constraints:
    """The rules of one slate. Positions count from the start of the visit; the slate begins at `first_position`."""

    creator_window: int = 0
    pins: Mapping[int, int] = field(default_factory=dict)
    """Place of the candidate at each pinned position."""
    floor: ExposureFloor | None = None
    slots: tuple[SourceSlot, ...] = ()
    first_position: int = 0

    @property
    def is_on(self) -> bool:
        """Whether any rule can act."""
        return bool(self.creator_window or self.pins or self.slots or (self.floor and self.floor.share > 0))


class Guard:
    """Applies the rules while a slate of `limit` posts grows."""

    def __init__(
        self, constraints: Constraints, creator_ids: NDArray[np.int64], limit: int, previous_creator_ids: list[int]
    ) -> None:
        self._rules = constraints
        self._creator_ids = creator_ids
        self._above = previous_creator_ids
        self._num_placed = 0
        self._num_small = 0
        first = constraints.first_position
        self._pins = {at - first: place for at, place in constraints.pins.items() if first <= at < first + limit}
        self.num_relaxed: dict[str, int] = {}
        """Positions at which a rule had to yield, by rule."""

    def reserved(self, count: int) -> NDArray[np.bool_]:
        """Candidates that wait for their pinned position, [N]."""
        is_reserved = np.zeros(count, dtype=np.bool_)
        is_reserved[list(self._pins.values())] = True
        return is_reserved

    def pinned(self, position: int) -> int | None:
        """The candidate pinned at a position of this slate."""
        return self._pins.get(position)

    def narrowed(self, pool: NDArray[np.bool_], position: int) -> list[tuple[str, NDArray[np.bool_]]]:
        """What each acting rule left of `pool`, in order."""
        steps: list[tuple[str, NDArray[np.bool_]]] = []
        for rule, is_met in self._acting(position):
            narrower = pool & is_met
            if narrower.any():
                pool = narrower
                steps.append((rule, pool))
            else:
                self.num_relaxed[rule] = self.num_relaxed.get(rule, 0) + 1
        return steps

    def _acting(self, position: int) -> list[tuple[str, NDArray[np.bool_]]]:
        rules, acting = self._rules, []
        if rules.creator_window and self._above:
            is_other = np.ones(len(self._creator_ids), dtype=np.bool_)
            for creator in self._above[-rules.creator_window :]:
                is_other &= self._creator_ids != creator
            acting.append((CREATOR_WINDOW, is_other))
        floor = rules.floor
        # A hair above, so that 0.1 * 10 counts as 1.
        if floor is not None and int(floor.share * (self._num_placed + 1) + 1e-9) > self._num_small:
            acting.append((EXPOSURE_FLOOR, floor.is_small))
        at = rules.first_position + position
        acting += [(SOURCE_SLOT, slot.is_from) for slot in rules.slots if slot.is_at(at)]
        return acting

    def place(self, choice: int) -> None:
        """Counts a candidate as placed."""
        self._above.append(int(self._creator_ids[choice]))
        self._num_placed += 1
        if self._rules.floor is not None:
            self._num_small += int(self._rules.floor.is_small[choice])
