"""Which candidates a position may take, rule by rule. Depends on nothing but numpy.

N candidates. Each rule narrows what the one before it left, and yields where nothing would be left:

1. a pin puts one candidate at one position;
2. creator window: no creator twice within `creator_window` + 1 positions;
3. exposure floor: for every n, at least floor(share * n) of the first n posts are of small creators;
4. source slot: positions first, first + every, ... take a candidate of one source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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

    def taken(self, order: NDArray[np.int64]) -> "Constraints":
        """The same rules over the candidates at `order`."""
        place_of = {int(place): new for new, place in enumerate(order)} if self.pins else {}
        floor = replace(self.floor, is_small=self.floor.is_small[order]) if self.floor else None
        slots = tuple(replace(slot, is_from=slot.is_from[order]) for slot in self.slots)
        pins = {at: place_of[place] for at, place in self.pins.items()}
        return replace(self, pins=pins, floor=floor, slots=slots)


class Guard:
    """Applies the rules while a slate of `limit` posts grows."""

    def __init__(
        self, constraints: Constraints, creator_ids: NDArray[np.int64], limit: int, previous_creator_ids: list[int]
    ) -> None:
        self._rules = constraints
        self._above = previous_creator_ids
        self._num_placed = 0
        self._num_small = 0
        first = constraints.first_position
        self._pins = {at - first: place for at, place in constraints.pins.items() if first <= at < first + limit}
        self._places_of: dict[int, list[int]] = {}
        if constraints.creator_window:
            for place, creator in enumerate(creator_ids.tolist()):
                self._places_of.setdefault(creator, []).append(place)
        self._creators = creator_ids.tolist()
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

    def permits(self, place: int, position: int) -> bool:
        """Whether a candidate meets every rule; then none has to be applied to find the best."""
        rules = self._rules
        if rules.creator_window and self._creators[place] in self._above[-rules.creator_window :]:
            return False
        if self._owes_small() and not (rules.floor and rules.floor.is_small[place]):
            return False
        at = rules.first_position + position
        return all(slot.is_from[place] for slot in rules.slots if slot.is_at(at))

    def _owes_small(self) -> bool:
        """Whether the exposure floor asks for a small creator now."""
        floor = self._rules.floor
        # A hair above, so that 0.1 * 10 counts as 1.
        return floor is not None and int(floor.share * (self._num_placed + 1) + 1e-9) > self._num_small

    def narrowed(self, pool: NDArray[np.bool_], position: int) -> list[tuple[str, NDArray[np.bool_]]]:
        """What each acting rule left of `pool`, in order; a rule that leaves all of it is not named."""
        steps: list[tuple[str, NDArray[np.bool_]]] = []
        for rule, is_met in self._acting(pool, position):
            narrower = pool & is_met
            if narrower.any():
                pool = narrower
                steps.append((rule, pool))
            else:
                self.num_relaxed[rule] = self.num_relaxed.get(rule, 0) + 1
        return steps

    def _acting(self, pool: NDArray[np.bool_], position: int) -> list[tuple[str, NDArray[np.bool_]]]:
        rules, acting = self._rules, []
        above = self._above[-rules.creator_window :] if rules.creator_window else []
        barred = [place for creator in above for place in self._places_of.get(creator, ()) if pool[place]]
        if barred:
            is_other = np.ones(len(pool), dtype=np.bool_)
            is_other[barred] = False
            acting.append((CREATOR_WINDOW, is_other))
        if rules.floor is not None and self._owes_small():
            acting.append((EXPOSURE_FLOOR, rules.floor.is_small))
        at = rules.first_position + position
        acting += [(SOURCE_SLOT, slot.is_from) for slot in rules.slots if slot.is_at(at)]
        return acting

    def place(self, choice: int) -> None:
        """Counts a candidate as placed."""
        self._above.append(self._creators[choice])
        self._num_placed += 1
        if self._rules.floor is not None:
            self._num_small += int(self._rules.floor.is_small[choice])
