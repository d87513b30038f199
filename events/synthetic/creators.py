"""Creators: niches, languages, quality, and how many people know them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.schema import MEDIA_TYPES
from events.synthetic.config import WorldConfig
from events.synthetic.topics import Topics
from events.synthetic.users import draw_arrivals

_MEDIA_SHARES = (0.35, 0.40, 0.15, 0.10)


@dataclass(frozen=True)
class Creators:
    """One entry per creator, by creator id."""

    market: NDArray[np.int64]
    language: NDArray[np.int64]
    joined_at: NDArray[np.float64]  # unix seconds
    niches: NDArray[np.int64]  # [creators, 2] leaves: the main one and the other
    quality: NDArray[np.float64]  # deviation 1
    charisma: NDArray[np.float64]  # deviation 1; what makes people follow
    bait: NDArray[np.float64]  # deviation 1; promises more than it keeps
    is_risky: NDArray[np.bool_]
    productivity: NDArray[np.float64]  # relative number of posts
    fame: NDArray[np.float64]  # relative number of followers
    media_shares: NDArray[np.float64]  # [creators, media types], sums to 1

    @property
    def count(self) -> int:
        return len(self.market)


def draw_creators(config: WorldConfig, topics: Topics, rng: np.random.Generator) -> Creators:
    """Every creator; the first ones cover the markets so that no language is without posts."""
    count = config.catalogue.num_creators
    shares = np.array([market.share for market in config.markets])
    market = rng.choice(len(config.markets), size=count, p=shares / shares.sum())
    covered = min(count, len(config.markets))
    market[:covered] = np.arange(covered)
    of_market = np.array([config.languages.index(m.language) for m in config.markets])
    quality = rng.standard_normal(count)
    charisma = 0.5 * quality + np.sqrt(0.75) * rng.standard_normal(count)
    joined_at = draw_arrivals(config, count, 720.0, rng)
    joined_at[:covered] = np.minimum(joined_at[:covered], config.start_seconds - 40 * 86_400.0)
    return Creators(
        market=market,
        language=of_market[market],
        joined_at=joined_at,
        niches=rng.choice(topics.num_leaves, size=(count, 2), p=topics.popularity),
        quality=quality,
        charisma=charisma,
        bait=rng.standard_normal(count),
        is_risky=rng.random(count) < config.catalogue.risky_creator_share,
        productivity=np.exp(config.catalogue.productivity_deviation * rng.standard_normal(count)),
        fame=np.exp(0.6 * charisma + 0.3 * quality + 0.8 * rng.standard_normal(count)),
        media_shares=rng.dirichlet(3.0 * np.array(_MEDIA_SHARES), size=count)
        if len(MEDIA_TYPES) == len(_MEDIA_SHARES)
        else np.full((count, len(MEDIA_TYPES)), 1 / len(MEDIA_TYPES)),
    )
