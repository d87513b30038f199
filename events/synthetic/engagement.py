"""From a world's people and catalogue to its truth: the static logits of users and posts, and the weights."""

import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from events.synthetic.config import WorldConfig
from events.synthetic.follows import Ties
from events.synthetic.heads import CROSS_DRIVERS
from events.synthetic.posts import Posts
from events.synthetic.topics import Topics
from events.synthetic.trends import trends_from
from events.synthetic.truth import Truth, TruthConstants
from events.synthetic.users import Users


def build_truth(
    config: WorldConfig,
    topics: Topics,
    users: Users,
    posts: Posts,
    ties: Ties,
    trends: NDArray[np.float32],
) -> Truth:
    """The truth of the world, with the follows known before the simulation."""
    offsets = np.array([market.utc_offset_hours for market in config.markets], dtype=np.float32)
    return Truth(
        constants=TruthConstants(
            has_preferences=config.has_preferences,
            start_seconds=config.start_seconds,
            end_seconds=config.end_seconds,
            trends_from_seconds=trends_from(config),
        ),
        base=np.array([head.base for _, head in config.heads], dtype=np.float32),
        cross_weights=_cross_weights(config),
        user_logits=_user_logits(config, users),
        user_vectors_start=users.vectors_start,
        user_vectors_end=users.vectors_end,
        user_media_taste=users.media_taste,
        user_language=users.language,
        user_second_language=users.second_language,
        user_market=users.market,
        user_utc_offset_hours=offsets[users.market],
        post_logits=_post_logits(config, topics, posts),
        post_vectors=posts.vectors,
        post_media=posts.media,
        post_leaf=posts.leaf,
        post_creator=posts.creator,
        post_language=posts.language,
        post_market=posts.market,
        post_created_at=posts.created_at,
        post_life_speed=posts.life_speed * np.float32(config.catalogue.life_weight),
        post_long_view_seconds=np.clip(0.7 * posts.duration_seconds, 6.0, 30.0).astype(np.float32),
        trend_logits=trends,
        ties=ties,
    )


def _cross_weights(config: WorldConfig) -> NDArray[np.float32]:
    weights = np.zeros((len(CROSS_DRIVERS), len(HEADS)), dtype=np.float32)
    for place, (_, head) in enumerate(config.heads):
        for driver, weight in head.cross:
            weights[CROSS_DRIVERS.index(driver), place] = weight
    return weights


def _user_logits(config: WorldConfig, users: Users) -> NDArray[np.float32]:
    """Shifts [users, heads] of those who click or react more than others."""
    columns = [head.clickiness * users.clickiness + head.warmth * users.warmth for _, head in config.heads]
    return np.stack(columns, axis=1).astype(np.float32)


def _post_logits(config: WorldConfig, topics: Topics, posts: Posts) -> NDArray[np.float32]:
    """Shifts [posts, heads] by traits, media type and leaf."""
    traits = {"quality": posts.quality, "charisma": posts.charisma, "bait": posts.bait, "risk": posts.risk}
    columns = []
    for place, (_, head) in enumerate(config.heads):
        column = np.array(head.media, dtype=np.float64)[posts.media]
        column += head.topic * topics.effects[posts.leaf, place]
        for trait, weight in head.post:
            column += weight * traits[trait]
        columns.append(column)
    return np.stack(columns, axis=1).astype(np.float32)
