"""The run of the world: the logging policy answers requests, users scroll, examine and act."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from events.synthetic.config import WorldConfig
from events.synthetic.policy import LoggingPolicy
from events.synthetic.posts import Posts
from events.synthetic.sessions import Requests
from events.synthetic.truth import Truth

_CLICK, _FOLLOW, _LONG_VIEW = HEADS.index("click"), HEADS.index("follow"), HEADS.index("long_view")
_NEGATIVE = (HEADS.index("see_less"), HEADS.index("report"))
_NEEDS_CLICK = tuple(h for h in range(len(HEADS)) if h not in (*_NEGATIVE, _CLICK))


@dataclass(frozen=True)
class Seen:
    """Impressions, one entry each, in order of simulation."""

    request: NDArray[np.int64]  # index into Requests
    position: NDArray[np.int64]
    post: NDArray[np.int64]
    source: NDArray[np.int64]
    propensity: NDArray[np.float64]
    event_at: NDArray[np.float64]  # unix seconds
    acted: NDArray[np.bool_]  # [N, heads]
    dwell_seconds: NDArray[np.float64]  # 0 without a click


def examination(config: WorldConfig, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability that a post scrolled to at each position is looked at."""
    return np.asarray((positions + 1.0) ** -config.visits.examination_exponent, dtype=np.float64)


def simulate(
    config: WorldConfig,
    truth: Truth,
    posts: Posts,
    policy: LoggingPolicy,
    requests: Requests,
    streams: dict[str, np.random.Generator],
    advance: Callable[[float], None],
) -> tuple[Seen, Truth]:
    """Everything seen and done, and the truth with the follows made on the way.

    A follow made in the feed counts from the next refresh of the policy. `advance` hears the share done.
    """
    parts: list[Seen] = []
    step_seconds = config.policy.refresh_hours * 3_600.0
    origin = requests.served_at[0] // step_seconds * step_seconds if requests.count else 0.0
    step = ((requests.served_at - origin) // step_seconds).astype(np.int64)
    bounds = np.searchsorted(step, np.arange(step[-1] + 2)) if requests.count else np.zeros(1, dtype=np.int64)
    for number, (low, high) in enumerate(pairwise(bounds)):
        policy.refresh(origin + number * step_seconds)
        fresh = [
            _wave(config, truth, policy, requests, wave, streams) for wave in _waves(requests.user[low:high], int(low))
        ]
        for seen in fresh:
            clicked = seen.acted[:, _CLICK]
            policy.learn_topics(requests.user[seen.request[clicked]], seen.post[clicked])
        truth = _with_follows(truth, posts, requests, fresh, origin + (number + 1) * step_seconds)
        parts.extend(fresh)
        advance((number + 1) / (len(bounds) - 1))
    return _joined(parts), truth


def _waves(users: NDArray[np.int64], offset: int) -> list[NDArray[np.int64]]:
    """Indices of requests in waves: the first request of each user, the second of each, and so on."""
    order = np.argsort(users, kind="stable")
    first = np.r_[True, np.diff(users[order]) != 0] if len(users) else np.zeros(0, dtype=bool)
    nth = np.arange(len(users)) - np.flatnonzero(first)[first.cumsum() - 1] if len(users) else order
    return [np.sort(order[nth == k]) + offset for k in range(int(nth.max()) + 1 if len(users) else 0)]


def _wave(
    config: WorldConfig,
    truth: Truth,
    policy: LoggingPolicy,
    requests: Requests,
    wave: NDArray[np.int64],
    streams: dict[str, np.random.Generator],
) -> Seen:
    """Impressions of one wave of requests, at most one request per user."""
    slates = policy.draw(requests.user[wave], requests.language[wave], streams["slates"])
    scrolled = np.arange(slates.posts.shape[1]) < requests.depth[wave, None]
    row, position = np.nonzero((slates.posts >= 0) & scrolled)
    request, post = wave[row], slates.posts[row, position]
    user = requests.user[request]
    glance = 0.8 + streams["slates"].exponential(2.5, size=slates.posts.shape).cumsum(axis=1)
    event_at = (requests.served_at[request] + np.minimum(glance[row, position], 240.0)).round(3)
    acted = _act(config, truth.probabilities(user, post, event_at), position, streams["engagements"])
    dwell = truth.draw_dwell_seconds(post, acted[:, _LONG_VIEW], streams["dwell"])
    policy.observe(user, post, acted[:, _CLICK])
    return Seen(
        request=request,
        position=position,
        post=post,
        source=slates.sources[row, position],
        propensity=slates.propensities[row, position],
        event_at=event_at,
        acted=acted,
        dwell_seconds=np.where(acted[:, _CLICK], np.minimum(dwell, 240.0), 0.0),
    )


def _act(
    config: WorldConfig,
    probability: NDArray[np.float64],
    position: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """What users do, [N, heads]: nothing unless they look; likes and the like only after a click."""
    looks = rng.random(len(position)) < examination(config, position)
    draw = rng.random(probability.shape)
    acted = draw < probability
    click = probability[:, [_CLICK]]
    acted[:, _NEEDS_CLICK] = (draw * click < probability)[:, _NEEDS_CLICK] & acted[:, [_CLICK]]
    return acted & looks[:, None]


def _with_follows(truth: Truth, posts: Posts, requests: Requests, fresh: list[Seen], since: float) -> Truth:
    """The truth in which the follows just made hold from `since`."""
    keys = [
        requests.user[seen.request[seen.acted[:, _FOLLOW]]] * truth.ties.num_creators
        + posts.creator[seen.post[seen.acted[:, _FOLLOW]]]
        for seen in fresh
    ]
    new = np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64)
    return replace(truth, ties=truth.ties.with_follows(new, since)) if len(new) else truth


def _joined(parts: list[Seen]) -> Seen:
    return Seen(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Seen.__annotations__})
