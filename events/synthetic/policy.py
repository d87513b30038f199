"""The logging policy: which posts a request was answered with, and with what probability.

The policy is a mixture of three sources over the recommendable posts of the request's language:
popular (by recent clicks), affinity (a topic by the user's past clicks and follows, then a fresh or
popular post of it) and uniform (exploration). Slots are filled from the top by drawing from the mixture
without the posts already placed or recently seen, so the probability of a post at a position, given
the posts above it, is

    propensity = mix(post) / (1 - mix(recently seen) - mix(posts above))

It sees only what a platform would: logged clicks, follows, onboarding answers and classified topics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from events.synthetic.config import WorldConfig
from events.synthetic.posts import Posts

SOURCES = ("popular", "affinity", "uniform")
_DRAWS_PER_SLOT = 2


@dataclass(frozen=True)
class Slates:
    """Slates [R, slate_size] of a wave of requests; post -1 where the policy ran out of posts."""

    posts: NDArray[np.int64]
    sources: NDArray[np.int64]  # index into SOURCES of the source that was drawn
    propensities: NDArray[np.float64]


class LoggingPolicy:
    """The mixture and what it has learnt so far. Changes only through `observe` and `refresh`."""

    def __init__(self, config: WorldConfig, posts: Posts, num_leaves: int, affinity_prior: NDArray[np.float32]) -> None:
        """`affinity_prior` [users, leaves] holds pseudo-clicks from follows and onboarding."""
        self._config, self._num_leaves = config.policy, num_leaves
        self._slate_size = config.visits.slate_size
        num_languages = len(config.languages)
        self._bucket = posts.language * num_leaves + posts.topic_id
        self._order = np.argsort(self._bucket, kind="stable")
        sorted_bucket = self._bucket[self._order]
        self._bounds = np.searchsorted(sorted_bucket, np.arange(num_languages * num_leaves + 1))
        self._posts = posts
        self._leaf_clicks = affinity_prior
        self._views = np.zeros(posts.count)
        self._clicks = np.zeros(posts.count)
        self._recent = np.full((len(affinity_prior), config.policy.recent_size), -1, dtype=np.int64)
        self._recent_next = np.zeros(len(affinity_prior), dtype=np.int64)
        self._refreshed_at = -np.inf
        self._weights = np.zeros((len(SOURCES), posts.count))
        self._cumulative = np.zeros((len(SOURCES), posts.count + 1))

    def refresh(self, at_seconds: float) -> None:
        """Rebuilds the mixture from what was observed until now: new posts enter, old clicks fade."""
        hours = (at_seconds - self._refreshed_at) / 3_600.0
        fade = 0.5 ** (hours / self._config.popularity_half_life_hours)
        self._clicks *= fade
        self._views *= fade
        self._refreshed_at = at_seconds
        posts = self._posts
        eligible = posts.is_recommendable & (posts.created_at <= at_seconds)
        age_days = np.maximum(at_seconds - posts.created_at, 0.0) / 86_400.0
        rate = (self._clicks + 1.0) / (self._views + 10.0)
        fresh = 0.1 + np.exp2(-age_days / self._config.affinity_half_life_days)
        self._weights[0] = eligible * (self._clicks * rate + 1e-4)
        self._weights[1] = eligible * fresh * rate * np.sqrt(1.0 + self._clicks)
        self._weights[2] = eligible
        np.cumsum(self._weights[:, self._order], axis=1, out=self._cumulative[:, 1:])

    def draw(self, users: NDArray[np.int64], languages: NDArray[np.int64], rng: np.random.Generator) -> Slates:
        """One slate per request; at most one request per user, so that nothing seen is repeated."""
        affinity = self._affinity(users, languages)
        width = _DRAWS_PER_SLOT * self._slate_size
        drawn, source = self._draw_mixture(affinity, languages, width, rng)
        recent = self._recent[users]
        mix = self._mixture(drawn, affinity, languages)
        fine = (mix > 0) & ~_is_in(drawn, recent) & ~_repeats(drawn)
        place = fine.cumsum(axis=1) - 1
        kept = fine & (place < self._slate_size)
        row, column = np.nonzero(kept)
        slates = Slates(
            posts=np.full((len(users), self._slate_size), -1, dtype=np.int64),
            sources=np.full((len(users), self._slate_size), -1, dtype=np.int64),
            propensities=np.zeros((len(users), self._slate_size)),
        )
        slates.posts[row, place[row, column]] = drawn[row, column]
        slates.sources[row, place[row, column]] = source[row, column]
        slates.propensities[row, place[row, column]] = mix[row, column]
        excluded = self._mixture(recent, affinity, languages).sum(axis=1, keepdims=True)
        above = slates.propensities.cumsum(axis=1) - slates.propensities
        slates.propensities[:] /= np.maximum(1.0 - excluded - above, 1e-9)
        np.minimum(slates.propensities, 1.0, out=slates.propensities)
        return slates

    def observe(self, users: NDArray[np.int64], posts: NDArray[np.int64], is_click: NDArray[np.bool_]) -> None:
        """Takes note of impressions, [N] each; clicks count at the next refresh, what was seen at once."""
        np.add.at(self._views, posts, 1.0)
        np.add.at(self._clicks, posts[is_click], 1.0)
        order = np.argsort(users, kind="stable")
        users, posts = users[order], posts[order]
        first = np.r_[True, users[1:] != users[:-1]] if len(users) else np.zeros(0, dtype=bool)
        nth = np.arange(len(users)) - np.flatnonzero(first)[first.cumsum() - 1]
        size = self._recent.shape[1]
        self._recent[users, (self._recent_next[users] + nth) % size] = posts
        np.add.at(self._recent_next, users, 1)

    def learn_topics(self, users: NDArray[np.int64], posts: NDArray[np.int64]) -> None:
        """Adds clicks, [N] each, to what is known about users; call between refreshes only."""
        np.add.at(self._leaf_clicks, (users, self._posts.topic_id[posts]), np.float32(1.0))

    def _affinity(self, users: NDArray[np.int64], languages: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability [R, leaves] that the affinity source draws each topic; 0 where the language has no post."""
        counts = self._leaf_clicks[users].astype(np.float64) + self._config.affinity_floor / self._num_leaves
        start = languages[:, None] * self._num_leaves + np.arange(self._num_leaves)
        counts *= self._mass(1, start, start + 1) > 0
        total = counts.sum(axis=1, keepdims=True)
        return counts / np.where(total > 0, total, 1.0)

    def _mass(self, source: int, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight of the source in buckets first..last."""
        cumulative = self._cumulative[source]
        return np.asarray(cumulative[self._bounds[last]] - cumulative[self._bounds[first]])

    def _draw_mixture(
        self, affinity: NDArray[np.float64], languages: NDArray[np.int64], width: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Independent draws [R, width] from the mixture, and the source of each."""
        shares = np.cumsum([self._config.popular_share, self._config.affinity_share])
        shape = (len(languages), width)
        source = np.searchsorted(shares, rng.random(shape), side="right")
        point = rng.random(shape)
        leaf = (rng.random(shape)[:, :, None] >= affinity.cumsum(axis=1)[:, None, :]).sum(axis=2)
        leaf = np.minimum(leaf, self._num_leaves - 1)
        bucket = languages[:, None] * self._num_leaves
        by_topic = source == 1
        first = np.where(by_topic, bucket + leaf, bucket)
        last = np.where(by_topic, bucket + leaf + 1, bucket + self._num_leaves)
        drawn = np.zeros(shape, dtype=np.int64)
        for which in range(len(SOURCES)):
            mine = source == which
            low = self._cumulative[which][self._bounds[first[mine]]]
            high = self._cumulative[which][self._bounds[last[mine]]]
            place = np.searchsorted(self._cumulative[which], low + (high - low) * point[mine], side="right") - 1
            drawn[mine] = self._order[np.clip(place, 0, len(self._order) - 1)]
        return drawn, source

    def _mixture(
        self, posts: NDArray[np.int64], affinity: NDArray[np.float64], languages: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probability [R, N] that one draw gives each post; 0 for -1, other languages and ineligible posts."""
        first = languages * self._num_leaves
        last = first + self._num_leaves
        popular = _share(self._weights[0][posts], self._mass(0, first, last)[:, None])
        uniform = _share(self._weights[2][posts], self._mass(2, first, last)[:, None])
        bucket = self._bucket[posts]
        in_topic = _share(self._weights[1][posts], self._mass(1, bucket, bucket + 1))
        by_topic = np.take_along_axis(affinity, self._posts.topic_id[posts], axis=1) * in_topic
        mix = (
            self._config.popular_share * popular
            + self._config.affinity_share * by_topic
            + self._config.uniform_share * uniform
        )
        return np.asarray(mix * ((posts >= 0) & (self._posts.language[posts] == languages[:, None])))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def _is_in(drawn: NDArray[np.int64], recent: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of [R, N] is in its row of [R, M]."""
    found = np.zeros(drawn.shape, dtype=bool)
    for column in recent.T:
        found |= drawn == column[:, None]
    return found


def _repeats(drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of [R, N] occurs further left in its row."""
    found = np.zeros(drawn.shape, dtype=bool)
    for column in range(1, drawn.shape[1]):
        found[:, column] = (drawn[:, :column] == drawn[:, [column]]).any(axis=1)
    return found
