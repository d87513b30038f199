"""One draw with a known probability. Depends on nothing but numpy.

At an exploring position a candidate i of the allowed ones is chosen with probability

    (1 - probability) * softmax(merit / temperature)_i  +  probability * [i in pool] / |pool|

The first part is the Plackett-Luce choice (a Gumbel-perturbed argmax, one position at a time), whose probabilities
change smoothly with the scores; the second gives each of the best `pool` posts a floor that no score can take away.
Sources: Plackett, "The analysis of permutations", 1975; Yellott 1977 for the Gumbel form.
"""

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


def probabilities(
    merit: NDArray[np.float64],
    is_allowed: NDArray[np.bool_],
    pool: NDArray[np.int64],
    exploration: Exploration,
    spread: float,
) -> NDArray[np.float64]:
    """Probability of each candidate, [N], summing to 1 over the allowed ones.

    `pool`: places that share the uniform part, all allowed. `spread`: what `temperature` is a share of.
    """
    chances = np.zeros(len(merit))
    allowed = np.where(is_allowed, merit, -np.inf)
    best = int(np.argmax(allowed))
    width = exploration.temperature * spread
    if width > 0:
        with np.errstate(under="ignore"):
            chances = np.exp((allowed - allowed[best]) / width)
            chances *= (1.0 - exploration.probability) / chances.sum()
    else:
        chances[best] = 1.0 - exploration.probability
    if len(pool):
        chances[pool] += exploration.probability / len(pool)
    else:
        chances[best] += exploration.probability
    return chances


def drawn(chances: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Place drawn with the given probabilities."""
    sums = np.cumsum(chances)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


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
