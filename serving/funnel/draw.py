"""One draw with a known probability. Depends on nothing but numpy.

At an exploring position a candidate i of the allowed ones is chosen with probability

    (1 - probability) * softmax(merit / temperature)_i  +  probability * [i in pool] / |pool|

The first part is the Plackett-Luce choice (a Gumbel-perturbed argmax, one position at a time), whose probabilities
change smoothly with the scores; the second gives each of the best `pool` posts a floor that no score can take away.
Sources: Plackett, "The analysis of permutations", 1975; Yellott 1977 for the Gumbel form.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Exploration:
    """Positions that draw; `slots` None means all. `temperature` is a share of the spread of the pool's scores."""

    probability: float
    slots: frozenset[int] | None
    pool: int
    temperature: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether anything but the best candidate can be drawn."""
        return (self.probability > 0 or self.temperature > 0) and self.slots != frozenset()

    def is_at(self, position: int) -> bool:
        """Whether the position draws."""
        return self.slots is None or position in self.slots


def choose(
    merit: NDArray[np.float64],
    is_allowed: NDArray[np.bool_],
    best: int,
    exploration: Exploration,
    spread: float,
    number: float | None,
    forced: int | None = None,
) -> tuple[int, float]:
    """The place drawn by `number`, uniform in 0..1, and its probability; `forced` names the place instead.

    Places are in order of score, so the pool is the first of the allowed ones. `merit` is -inf where not allowed.
    `best`: the allowed place of greatest merit. `spread`: what `temperature` is a share of.
    """
    uniform, width = exploration.probability, exploration.temperature * spread
    soft = sums = None
    if width > 0:
        soft = np.exp((merit - merit[best]) / width)
        sums = soft.cumsum()
    size = min(exploration.pool, int(np.count_nonzero(is_allowed)))
    if forced is not None or number is None:
        choice = best if forced is None else forced
    elif number < uniform:
        choice = int(np.flatnonzero(is_allowed)[min(int(number / uniform * size), size - 1)])
    elif sums is None:
        choice = best
    else:
        # Just below the last sum, which rounding could reach, and behind which nothing is.
        total = float(sums[-1])
        at = min((number - uniform) / (1.0 - uniform) * total, math.nextafter(total, 0.0))
        choice = int(sums.searchsorted(at, side="right"))
    chance = float(choice == best) if soft is None or sums is None else float(soft[choice] / sums[-1])
    is_pooled = bool(is_allowed[choice]) and int(np.count_nonzero(is_allowed[: choice + 1])) <= exploration.pool
    return choice, (1.0 - uniform) * chance + (uniform / size if is_pooled else 0.0)


def page_floor(exploration: Exploration, page: int, creator_window: int, num_fixed: int = 0) -> float:
    """Least probability of each of the best `pool` posts to stand on a page of `page` posts.

    Holds for every score: at each drawing position at which the creator rule lets a post stand it has at least
    probability / pool. That rule bars it from at most `creator_window` of `creator_window` + 1 positions in
    sequence; `num_fixed` positions (pins, source slots, exposure floor) may exclude it as well. 0 where only some
    positions draw and the creator rule may bar a post from just those.
    """
    if exploration.slots is not None and creator_window:
        return 0.0
    drawing = sum(exploration.is_at(position) for position in range(page))
    chances = -(-max(0, drawing - num_fixed) // (creator_window + 1))
    return 1.0 - (1.0 - exploration.probability / exploration.pool) ** chances
