"""Users: where they live, when they come, what they like and how that drifts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.schema import MEDIA_TYPES
from events.synthetic.config import WorldConfig
from events.synthetic.topics import Topics

PROFILE_CODES = ("device", "acquisition_channel", "onboarding_topic", "notification_tier")
"""What each place of `profile_codes` holds; none is personal."""

DEVICES = ("ios", "android", "web")

_NUM_CHANNELS = 8
_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Users:
    """One entry per user, by user id."""

    market: NDArray[np.int64]
    language: NDArray[np.int64]
    second_language: NDArray[np.int64]  # -1 none
    registered_at: NDArray[np.float64]  # unix seconds
    interests: NDArray[np.int64]  # [users, max_interests] leaves
    interest_weights: NDArray[np.float64]  # [users, max_interests], sums to 1
    vectors_start: NDArray[np.float32]  # [users, latent] taste when the log starts
    vectors_end: NDArray[np.float32]  # [users, latent] taste when it ends
    media_taste: NDArray[np.float32]  # [users, media types], logits
    activity: NDArray[np.float64]  # relative number of sessions
    patience: NDArray[np.float64]  # mean number of posts scrolled to per request
    clickiness: NDArray[np.float32]  # logits
    warmth: NDArray[np.float32]  # logits
    hour_shift: NDArray[np.float64]  # hours by which the daily rhythm is late
    profile_codes: NDArray[np.int32]  # [users, len(PROFILE_CODES)], -1 unknown

    @property
    def count(self) -> int:
        return len(self.market)


def draw_users(
    config: WorldConfig, topics: Topics, rng: np.random.Generator, interests_rng: np.random.Generator
) -> Users:
    """Every user of the world, including those who join within the window."""
    people, count = config.people, config.people.num_users
    shares = np.array([market.share for market in config.markets])
    market = rng.choice(len(config.markets), size=count, p=shares / shares.sum())
    of_market = np.array([config.languages.index(m.language) for m in config.markets])
    language = of_market[market]
    interests, weights = _draw_interests(config, topics, interests_rng)
    start = _taste(topics, interests, weights)
    activity = np.exp(people.activity_deviation * rng.standard_normal(count))
    taste = people.media_taste_deviation * rng.standard_normal((count, len(MEDIA_TYPES)))
    return Users(
        market=market,
        language=language,
        second_language=_second_language(config, language, rng),
        registered_at=draw_arrivals(config, count, 540.0, rng),
        interests=interests,
        interest_weights=weights,
        vectors_start=start,
        vectors_end=_drifted(config, topics, interests, weights, interests_rng),
        media_taste=(taste - taste.mean(axis=1, keepdims=True)).astype(np.float32),
        activity=activity,
        patience=np.clip(config.visits.mean_depth + rng.standard_normal(count), 3.0, config.visits.slate_size),
        clickiness=(people.clickiness_deviation * rng.standard_normal(count)).astype(np.float32),
        warmth=(people.warmth_deviation * rng.standard_normal(count)).astype(np.float32),
        hour_shift=1.5 * rng.standard_normal(count),
        profile_codes=_profile_codes(topics, interests, activity, rng),
    )


def draw_arrivals(config: WorldConfig, count: int, days_back: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Unix seconds of arrival: most before the window, the joining share within it."""
    burn_in = config.visits.burn_in_days * _SECONDS_PER_DAY
    before = config.start_seconds - burn_in - 3_600 - days_back * _SECONDS_PER_DAY * rng.random(count) ** 1.5
    within = config.start_seconds + (config.end_seconds - config.start_seconds) * 0.98 * rng.random(count)
    return np.where(rng.random(count) < config.people.joining_share, within, before).round(3)


def _draw_interests(
    config: WorldConfig, topics: Topics, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Leaves and weights, [users, max_interests]: half of the later interests stay in the first one's topic."""
    people, count = config.people, config.people.num_users
    shape = (count, people.max_interests)
    leaves: NDArray[np.int64] = np.asarray(rng.choice(topics.num_leaves, size=shape, p=topics.popularity))
    sibling = leaves[:, :1] // topics.num_subtopics * topics.num_subtopics + rng.integers(
        topics.num_subtopics, size=leaves.shape
    )
    stays = rng.random(leaves.shape) < 0.4
    stays[:, 0] = False
    leaves = np.where(stays, sibling, leaves)
    number = rng.integers(1, people.max_interests + 1, size=count)
    raw = rng.gamma(people.interest_concentration, size=leaves.shape) + 1e-6
    raw[np.arange(people.max_interests) >= number[:, None]] = 0.0
    weights = -np.sort(-raw, axis=1)
    return leaves, weights / weights.sum(axis=1, keepdims=True)


def _taste(topics: Topics, leaves: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Unit taste vectors [users, latent]: the weighted sum of the leaves'."""
    vectors = np.zeros((len(leaves), topics.vectors.shape[1]))
    for place in range(leaves.shape[1]):
        vectors += weights[:, place, None] * topics.vectors[leaves[:, place]]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _drifted(
    config: WorldConfig,
    topics: Topics,
    leaves: NDArray[np.int64],
    weights: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Taste at the end: drifting users swap one interest for another and move some weight."""
    count, width = leaves.shape
    drifting = rng.random(count) < config.people.drifting_share
    place: NDArray[np.int64] = np.asarray(rng.integers(width, size=count))
    fresh: NDArray[np.int64] = np.asarray(rng.choice(topics.num_leaves, size=count, p=topics.popularity))
    leaves, weights = leaves.copy(), weights.copy()
    rows = np.flatnonzero(drifting)
    leaves[rows, place[rows]] = fresh[rows]
    weights[rows, place[rows]] = np.maximum(weights[rows, place[rows]], 0.25)
    return _taste(topics, leaves, weights / weights.sum(axis=1, keepdims=True))


def _second_language(config: WorldConfig, language: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Another language of the world, or -1."""
    number = len(config.languages)
    other = (language + rng.integers(1, max(number, 2), size=len(language))) % number
    has_second = (rng.random(len(language)) < config.people.second_language_share) & (number > 1)
    return np.where(has_second, other, -1)


def _profile_codes(
    topics: Topics, interests: NDArray[np.int64], activity: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Codes [users, 4] that hint at a user: the onboarding topic names the main interest for about a third."""
    count = len(interests)
    main = interests[:, 0] // topics.num_subtopics
    num_topics = topics.num_leaves // topics.num_subtopics
    random_topic = rng.integers(num_topics, size=count)
    onboarding = np.where(rng.random(count) < 0.7, main, random_topic)
    onboarding = np.where(rng.random(count) < 0.5, onboarding, -1)
    channel = np.where(rng.random(count) < 0.3, main % _NUM_CHANNELS, rng.integers(_NUM_CHANNELS, size=count))
    noisy_activity = np.log(activity) + 0.8 * rng.standard_normal(count)
    tier = np.digitize(noisy_activity, [-0.8, 0.0, 0.8])
    device = rng.choice(len(DEVICES), size=count, p=[0.38, 0.5, 0.12])
    return np.stack([device, channel, onboarding, tier], axis=1).astype(np.int32)
