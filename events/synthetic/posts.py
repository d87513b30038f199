"""Posts: topic, quality, risk, life curve, and what an encoder and a classifier see of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.schema import CONTENT_DIM, MEDIA_TYPES
from events.synthetic.config import WorldConfig
from events.synthetic.creators import Creators
from events.synthetic.topics import Topics

CONTENT_CODES = ("production_tier", "duration_bucket", "hashtag")
"""What each place of `content_codes` holds."""

_MEDIAN_SECONDS = (7.0, 28.0, 16.0, 40.0)  # by media type: looking, playing or reading time
_SECONDS_DEVIATION = (0.3, 0.7, 0.4, 0.6)
_LIFE_SPEED = (0.9, 1.0, 0.9, 1.3)  # by media type; text ages fastest
_DURATION_BUCKETS = (6.0, 12.0, 25.0, 50.0, 100.0)


@dataclass(frozen=True)
class Posts:
    """One entry per post, by post id, which is the order of creation."""

    creator: NDArray[np.int64]
    created_at: NDArray[np.float64]  # unix seconds
    leaf: NDArray[np.int64]  # true leaf
    topic_id: NDArray[np.int64]  # the classifier's leaf
    media: NDArray[np.int64]
    market: NDArray[np.int64]
    language: NDArray[np.int64]
    vectors: NDArray[np.float32]  # [posts, latent], unit, true
    quality: NDArray[np.float32]
    charisma: NDArray[np.float32]
    bait: NDArray[np.float32]
    risk: NDArray[np.float32]  # 0 harmless to 1 violating, true
    life_speed: NDArray[np.float32]
    duration_seconds: NDArray[np.float32]
    integrity_score: NDArray[np.float32]  # the classifier's view of 1 - risk
    is_recommendable: NDArray[np.bool_]
    content_codes: NDArray[np.int32]  # [posts, len(CONTENT_CODES)]
    content_embedding: NDArray[np.float32]  # [posts, CONTENT_DIM], unit

    @property
    def count(self) -> int:
        return len(self.creator)


def draw_posts(
    config: WorldConfig,
    topics: Topics,
    creators: Creators,
    rng: np.random.Generator,
    content_rng: np.random.Generator,
) -> Posts:
    """Every post published from `days_before` the window until its end."""
    catalogue = config.catalogue
    creator, created_at = _draw_publications(config, creators, rng)
    count = len(creator)
    leaf = np.where(rng.random(count) < catalogue.niche_share, creators.niches[creator, 0], creators.niches[creator, 1])
    vectors = _unit(topics.vectors[leaf] + catalogue.within_leaf_noise * _noise(count, topics.vectors.shape[1], rng))
    shared, own = np.sqrt(catalogue.creator_quality_share), np.sqrt(1 - catalogue.creator_quality_share)
    quality = shared * creators.quality[creator] + own * rng.standard_normal(count)
    bait = shared * creators.bait[creator] + own * rng.standard_normal(count)
    risk = np.where(creators.is_risky[creator], rng.beta(2.0, 4.0, size=count), rng.beta(0.8, 24.0, size=count))
    media = (rng.random(count)[:, None] > creators.media_shares[creator].cumsum(axis=1)).sum(axis=1)
    media = np.minimum(media, len(MEDIA_TYPES) - 1)
    duration = np.array(_MEDIAN_SECONDS)[media] * np.exp(
        np.array(_SECONDS_DEVIATION)[media] * rng.standard_normal(count)
    )
    integrity = np.clip(1 - risk + 0.04 * rng.standard_normal(count), 0.0, 1.0)
    return Posts(
        creator=creator,
        created_at=created_at,
        leaf=leaf,
        topic_id=_classify(config, topics, leaf, content_rng),
        media=media,
        market=creators.market[creator],
        language=creators.language[creator],
        vectors=vectors.astype(np.float32),
        quality=quality.astype(np.float32),
        charisma=creators.charisma[creator].astype(np.float32),
        bait=bait.astype(np.float32),
        risk=risk.astype(np.float32),
        life_speed=(topics.life_speed[leaf] * np.array(_LIFE_SPEED)[media]).astype(np.float32),
        duration_seconds=duration.astype(np.float32),
        integrity_score=integrity.astype(np.float32),
        is_recommendable=(rng.random(count) >= catalogue.blocked_share) & (integrity > 0.2),
        content_codes=_content_codes(topics, leaf, quality, duration, content_rng),
        content_embedding=_encode(config, vectors, quality, content_rng),
    )


def _draw_publications(
    config: WorldConfig, creators: Creators, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Creator and instant of each post in order of time; nobody publishes before joining."""
    opens = config.start_seconds - config.catalogue.days_before * 86_400.0
    since = np.maximum(creators.joined_at + 60.0, opens)
    weight = creators.productivity * (config.end_seconds - since)
    creator = rng.choice(creators.count, size=config.catalogue.num_posts, p=weight / weight.sum())
    created_at = since[creator] + (config.end_seconds - 1.0 - since[creator]) * rng.random(len(creator))
    order = np.argsort(created_at, kind="stable")
    return creator[order], created_at[order].round(3)


def _classify(
    config: WorldConfig, topics: Topics, leaf: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The classifier's leaf: mostly right, else mostly a sibling, else any."""
    count, draw = len(leaf), rng.random(len(leaf))
    sibling = leaf // topics.num_subtopics * topics.num_subtopics + rng.integers(topics.num_subtopics, size=count)
    anywhere = rng.integers(topics.num_leaves, size=count)
    accuracy = config.catalogue.classifier_accuracy
    return np.where(draw < accuracy, leaf, np.where(draw < accuracy + 0.75 * (1 - accuracy), sibling, anywhere))


def _content_codes(
    topics: Topics,
    leaf: NDArray[np.int64],
    quality: NDArray[np.float64],
    duration: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """Codes [posts, 3]: a noisy tier of production quality, the length, a hashtag where there is one."""
    count = len(leaf)
    tier = np.digitize(quality + rng.standard_normal(count), [-1.2, -0.4, 0.4, 1.2])
    hashtag = np.where(rng.random(count) < 0.7, leaf, rng.integers(topics.num_leaves, size=count))
    hashtag = np.where(rng.random(count) < 0.6, hashtag, -1)
    return np.stack([tier, np.digitize(duration, _DURATION_BUCKETS), hashtag], axis=1).astype(np.int32)


def _encode(
    config: WorldConfig, vectors: NDArray[np.floating], quality: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Unit embeddings [posts, CONTENT_DIM]: the true vector and some quality, rotated and blurred."""
    catalogue, latent = config.catalogue, vectors.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((CONTENT_DIM, CONTENT_DIM)))[0]
    clean = vectors @ rotation[:latent] + catalogue.visible_quality * quality[:, None] * rotation[latent]
    return _unit(clean + catalogue.encoder_noise * _noise(len(vectors), CONTENT_DIM, rng)).astype(np.float32)


def _noise(count: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random directions [count, width] of length about 1."""
    return np.asarray(rng.standard_normal((count, width)) / np.sqrt(width), dtype=np.float64)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float64)
