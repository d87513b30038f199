"""The follow graph: who follows whom, since when and until when."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from events.synthetic.config import WorldConfig
from events.synthetic.creators import Creators
from events.synthetic.topics import Topics
from events.synthetic.users import Users

FOREVER = np.float64(np.inf)


@dataclass(frozen=True)
class Ties:
    """Follows sorted by key = user * num_creators + creator, each key once; active from..to, unix seconds."""

    keys: NDArray[np.int64]
    since: NDArray[np.float64]
    until: NDArray[np.float64]
    num_creators: int

    def is_followed(
        self, users: NDArray[np.int64], creators: NDArray[np.int64], at_seconds: NDArray[np.float64] | float
    ) -> NDArray[np.bool_]:
        """Whether each user follows each creator at that instant, [N]."""
        if not len(self.keys):
            return np.zeros(len(users), dtype=bool)
        keys = users * self.num_creators + creators
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = self.keys[place] == keys
        return np.asarray(found & (self.since[place] <= at_seconds) & (self.until[place] > at_seconds))

    def with_follows(self, keys: NDArray[np.int64], since: float) -> "Ties":
        """The ties plus new follows that hold from `since`; follows that would start later start then."""
        keys = np.unique(keys)
        place = np.searchsorted(self.keys, keys)
        known = np.zeros(len(keys), dtype=bool)
        inside = place < len(self.keys)
        known[inside] = self.keys[place[inside]] == keys[inside]
        earlier = self.since.copy()
        earlier[place[known]] = np.minimum(earlier[place[known]], np.float64(since))
        at, number = place[~known], int((~known).sum())
        return Ties(
            keys=np.insert(self.keys, at, keys[~known]),
            since=np.insert(earlier, at, np.full(number, since)),
            until=np.insert(self.until, at, np.full(number, FOREVER)),
            num_creators=self.num_creators,
        )


def draw_ties(config: WorldConfig, topics: Topics, users: Users, creators: Creators, rng: np.random.Generator) -> Ties:
    """Follows made outside the feed: most of creators in a user's interests and language, and before the window."""
    people = config.people
    number = rng.poisson(people.mean_follows * rng.gamma(1.2, 1 / 1.2, size=users.count))
    user = np.repeat(np.arange(users.count), number)
    place = (rng.random(len(user))[:, None] > users.interest_weights[user].cumsum(axis=1)).sum(axis=1)
    leaf = users.interests[user, np.minimum(place, users.interests.shape[1] - 1)]
    sibling = leaf // topics.num_subtopics * topics.num_subtopics + rng.integers(topics.num_subtopics, size=len(leaf))
    leaf = np.where(rng.random(len(leaf)) < people.follow_sibling_share, sibling, leaf)
    creator = _draw_creators(topics, creators, users.language[user], leaf, people.follow_interest_share, rng)
    since = _draw_since(config, users.registered_at[user], creators.joined_at[creator], rng)
    left = rng.random(len(user)) < people.unfollow_share
    window = config.end_seconds - config.start_seconds
    until = np.where(left, config.start_seconds + window * rng.random(len(user)), FOREVER).round(3)
    until = np.where(until > since + 60.0, until, FOREVER)
    keep = since < config.end_seconds - 1.0
    keys, first = np.unique((user * creators.count + creator)[keep], return_index=True)
    return Ties(keys=keys, since=since[keep][first], until=until[keep][first], num_creators=creators.count)


def _draw_since(
    config: WorldConfig,
    registered_at: NDArray[np.float64],
    joined_at: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Instants after both have arrived; one in seven inside the window."""
    earliest = np.maximum(registered_at, joined_at) + 120.0
    share = rng.random(len(earliest))
    before = earliest + np.maximum(config.start_seconds - earliest, 0.0) * share
    opens = np.maximum(earliest, config.start_seconds)
    within = opens + (config.end_seconds - opens) * share
    is_within = (rng.random(len(earliest)) < 1 / 7) | (earliest >= config.start_seconds)
    return np.where(is_within, within, before).round(3)


def _draw_creators(
    topics: Topics,
    creators: Creators,
    language: NDArray[np.int64],
    leaf: NDArray[np.int64],
    interest_share: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """A creator per follow by fame: in the wanted language and main niche, or anywhere in the language."""
    bucket = creators.language * topics.num_leaves + creators.niches[:, 0]
    order = np.argsort(bucket, kind="stable")
    cumulative = np.concatenate([[0.0], creators.fame[order].cumsum()])
    sorted_bucket = bucket[order]
    wanted = language * topics.num_leaves + leaf
    low, high = np.searchsorted(sorted_bucket, wanted), np.searchsorted(sorted_bucket, wanted, side="right")
    anywhere = (low == high) | (rng.random(len(leaf)) >= interest_share)
    wide_low = np.searchsorted(sorted_bucket, language * topics.num_leaves)
    wide_high = np.searchsorted(sorted_bucket, (language + 1) * topics.num_leaves)
    low, high = np.where(anywhere, wide_low, low), np.where(anywhere, wide_high, high)
    low, high = np.where(low == high, 0, low), np.where(low == high, len(order), high)
    point = cumulative[low] + (cumulative[high] - cumulative[low]) * rng.random(len(leaf))
    place = np.clip(np.searchsorted(cumulative, point, side="right") - 1, low, high - 1)
    return np.asarray(order[place], dtype=np.int64)
