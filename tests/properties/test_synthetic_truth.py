"""The world behaves as its truth says: frequencies, propensities, and no preference where there is none."""

import numpy as np
import pyarrow.compute as pc
import pytest

from core.schema import HEADS
from events.synthetic.config import PRESETS
from events.synthetic.creators import draw_creators
from events.synthetic.follows import draw_ties
from events.synthetic.policy import SOURCES, LoggingPolicy
from events.synthetic.posts import draw_posts
from events.synthetic.simulate import examination
from events.synthetic.streams import spawn_streams
from events.synthetic.topics import draw_topics
from events.synthetic.truth import Truth
from events.synthetic.users import draw_users
from tests.synthetic_small import small_config, small_world


def seen_with_truth(preset):
    """Expected probability of each head per impression, [N, heads], what happened, and positions."""
    log, truth = small_world(preset)
    rows = log["impressions"]
    position = rows["position"].to_numpy()
    at = pc.cast(rows["event_at"], "int64").to_numpy() / 1e6
    expected = truth.probabilities(rows["user_id"].to_numpy(), rows["post_id"].to_numpy(), at)
    expected *= examination(small_config(preset), position)[:, None]
    ids = {event_id: place for place, event_id in enumerate(rows["event_id"].to_pylist())}
    acted = np.zeros(expected.shape, dtype=bool)
    for impression, kind in zip(
        log["engagements"]["impression_id"].to_pylist(), log["engagements"]["kind"].to_pylist(), strict=True
    ):
        acted[ids[impression], HEADS.index(kind)] = True
    return expected, acted, position


def within(expected, acted, sigmas=4.5):
    """Whether the number of events is within `sigmas` standard errors of the sum of probabilities."""
    error = np.sqrt((expected * (1 - expected)).sum())
    return abs(acted.sum() - expected.sum()) <= sigmas * max(error, 1.0)


@pytest.mark.parametrize("preset", ["world", "world_b", "null_world"])
def test_every_engagement_happens_as_often_as_the_truth_says(preset):
    expected, acted, _ = seen_with_truth(preset)
    for head in range(len(HEADS)):
        assert within(expected[:, head], acted[:, head]), HEADS[head]


def test_clicks_are_calibrated_in_every_tenth_of_the_truth_and_at_every_position():
    expected, acted, position = seen_with_truth("world")
    tenth = np.argsort(np.argsort(expected[:, 0])) * 10 // len(expected)
    for part in range(10):
        assert within(expected[tenth == part, 0], acted[tenth == part, 0])
    for place in range(8):
        assert within(expected[position == place, 0], acted[position == place, 0])


def test_position_costs_clicks():
    _, acted, position = seen_with_truth("null_world")
    assert acted[position == 0, 0].mean() > 1.2 * acted[position >= 4, 0].mean()


def test_reactions_come_with_a_click_and_negatives_do_not_need_one():
    _, acted, _ = seen_with_truth("world")
    positive = [HEADS.index(h) for h in ("like", "comment", "share", "save", "follow", "long_view")]
    assert acted[acted[:, positive].any(axis=1), 0].all()
    assert (acted[:, HEADS.index("see_less")] & ~acted[:, 0]).any()


def test_in_the_null_world_everyone_likes_everything_equally():
    _, truth = small_world("null_world")
    rng = np.random.default_rng(0)
    probability = truth.probabilities(rng.integers(300, size=2_000), rng.integers(900, size=2_000), 1.77e9)
    assert (probability == probability[0]).all()


def test_in_the_world_taste_matters():
    log, truth = small_world()
    end = small_config().end_seconds - 1
    click = truth.probabilities(np.zeros(900, dtype=np.int64), np.arange(900), end)[:, 0]
    own = truth.post_language == truth.user_language[0]
    assert click[own].max() > 5 * np.median(click[own])
    assert log["users"].num_rows == 300


def test_one_user_against_all_posts_is_the_same_as_pair_by_pair():
    _, truth = small_world()
    users = np.r_[np.full(50, 3), 4]
    posts = np.r_[np.arange(50), 0]
    mixed = truth.probabilities(users, posts, 1.7735e9)[:50]
    alone = truth.probabilities(np.full(50, 3), np.arange(50), 1.7735e9)
    np.testing.assert_allclose(mixed, alone, rtol=1e-5)


def test_a_click_after_a_second_is_worth_the_expected_dwell():
    _, truth = small_world()
    rng = np.random.default_rng(1)
    users, posts = np.full(200_000, 7), np.full(200_000, 11)
    p = truth.probabilities(users[:1], posts[:1], 1.7735e9)[0]
    click = rng.random(len(users)) < p[0]
    is_long = rng.random(len(users)) < p[HEADS.index("long_view")] / p[0]
    dwell = truth.draw_dwell_seconds(posts, is_long, rng) * click
    expected = truth.expected_dwell_seconds(users[:1], posts[:1], 1.7735e9)[0]
    assert dwell.mean() == pytest.approx(expected, rel=0.05)


def policy_world():
    config = small_config()
    streams = spawn_streams(config.seed)
    topics = draw_topics(config, streams["topics"])
    users = draw_users(config, topics, streams["users"], streams["user_interests"])
    creators = draw_creators(config, topics, streams["creators"])
    posts = draw_posts(config, topics, creators, streams["posts"], streams["post_content"])
    draw_ties(config, topics, users, creators, streams["follows"])
    prior = np.zeros((4_000, topics.num_leaves), dtype=np.float32)
    prior[:, 3] = 2.0
    policy = LoggingPolicy(config, posts, topics.num_leaves, prior)
    rng = np.random.default_rng(2)
    policy.refresh(config.start_seconds)
    shown = np.flatnonzero(posts.is_recommendable & (posts.created_at < config.start_seconds))
    policy.observe(np.arange(200) % 50 + 3_900, rng.choice(shown, 200), rng.random(200) < 0.5)
    policy.refresh(config.start_seconds + 3_600)
    return config, posts, policy, rng


def test_propensity_of_the_first_position_is_the_frequency_of_being_shown_there():
    _, posts, policy, rng = policy_world()
    users, languages = np.arange(3_000), np.zeros(3_000, dtype=np.int64)
    shown = np.zeros(posts.count)
    promised = np.zeros(posts.count)
    rounds = 20
    for _ in range(rounds):
        slates = policy.draw(users, languages, rng)
        np.add.at(shown, slates.posts[:, 0], 1.0)
        promised[slates.posts[:, 0]] = slates.propensities[:, 0]
    number = rounds * len(users)
    assert promised.sum() == pytest.approx(1.0, abs=0.005)
    seen = promised > 0
    z = (shown[seen] - number * promised[seen]) / np.sqrt(number * promised[seen] * (1 - promised[seen]))
    assert np.abs(z).max() < 5
    assert 0.8 < z.std() < 1.2
    assert (posts.language[shown > 0] == 0).all()


def test_inverse_propensities_at_a_lower_position_count_the_posts_that_could_stand_there():
    config, posts, policy, rng = policy_world()
    slates = policy.draw(np.arange(3_000), np.zeros(3_000, dtype=np.int64), rng)
    eligible = posts.is_recommendable & (posts.language == 0) & (posts.created_at <= config.start_seconds + 3_600)
    estimate = (1.0 / slates.propensities[:, 5]).mean()
    error = (1.0 / slates.propensities[:, 5]).std() / np.sqrt(3_000)
    assert estimate == pytest.approx(eligible.sum() - 5, abs=5 * error)


def test_shares_of_sources_are_those_of_the_mixture():
    config, _, policy, rng = policy_world()
    slates = policy.draw(np.arange(3_000), np.zeros(3_000, dtype=np.int64), rng)
    shares = np.bincount(slates.sources[:, 0], minlength=len(SOURCES)) / 3_000
    wanted = (config.policy.popular_share, config.policy.affinity_share, config.policy.uniform_share)
    assert shares == pytest.approx(wanted, abs=0.04)


def test_what_was_just_seen_is_not_shown_again():
    _, posts, policy, rng = policy_world()
    users, languages = np.arange(500), np.zeros(500, dtype=np.int64)
    first = policy.draw(users, languages, rng)
    policy.observe(users.repeat(12), first.posts.ravel(), np.zeros(6_000, dtype=bool))
    second = policy.draw(users, languages, rng)
    assert not (first.posts[:, :, None] == second.posts[:, None, :]).any()
    assert posts.count == 900


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_truth_is_a_probability_and_reactions_never_exceed_the_click(preset):
    _, truth = small_world(preset)
    assert isinstance(truth, Truth)
    rng = np.random.default_rng(3)
    probability = truth.probabilities(rng.integers(300, size=5_000), rng.integers(900, size=5_000), 1.7735e9)
    assert ((probability > 0) & (probability < 1)).all()
    assert (probability[:, 1:7] <= probability[:, :1]).all()
