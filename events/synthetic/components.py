"""The parts of a world's configuration: topics, people, catalogue, visits, logging policy, trends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Market:
    """A country with its language, its share of people and its offset from UTC in hours."""

    country: str
    language: str
    share: float
    utc_offset_hours: float


@dataclass(frozen=True)
class TopicConfig:
    """Shape of the two-level topic tree and of its popularity."""

    num_topics: int = 12
    num_subtopics: int = 6
    latent_dim: int = 24
    subtopic_share: float = 0.3  # of a leaf's squared length, what its topic does not explain
    zipf_exponent: float = 0.7
    effect_deviation: float = 0.35  # of a leaf's own pull on comments, shares and saves
    life_deviation: float = 0.35  # of log decay speed between news-like and evergreen leaves


@dataclass(frozen=True)
class PeopleConfig:
    """Users: interests, habits, and the links between them and creators."""

    num_users: int = 20_000
    joining_share: float = 0.05  # of users and creators, who arrive within the window
    second_language_share: float = 0.25
    max_interests: int = 3
    interest_concentration: float = 1.6  # Dirichlet; lower means one dominant interest
    drifting_share: float = 0.15
    activity_deviation: float = 0.6
    clickiness_deviation: float = 0.35
    warmth_deviation: float = 0.5
    media_taste_deviation: float = 0.35
    mean_follows: float = 30.0
    follow_interest_share: float = 0.9  # of follows, those of a creator in the user's own interests
    follow_sibling_share: float = 0.3  # of those, the share that goes to any leaf of the interest's topic
    unfollow_share: float = 0.02


@dataclass(frozen=True)
class CatalogueConfig:
    """Creators and posts."""

    num_creators: int = 3_000
    num_posts: int = 60_000
    days_before: float = 16.0  # posts older than the window's start, in days
    productivity_deviation: float = 0.8
    niche_share: float = 0.75  # of a creator's posts, those in the main niche
    creator_quality_share: float = 0.85  # of the variance of post quality, what the creator explains
    within_leaf_noise: float = 0.5  # length of a post's own direction next to its leaf of length 1
    encoder_noise: float = 0.35  # the same for the content encoder next to a post vector of length 1
    visible_quality: float = 0.3  # length that one deviation of quality has in the content embedding
    classifier_accuracy: float = 0.82
    risky_creator_share: float = 0.08
    blocked_share: float = 0.01
    life_weight: float = 0.3  # logits lost per unit of log(1 + age in days)


@dataclass(frozen=True)
class VisitConfig:
    """Sessions, scrolling and examination."""

    num_impressions: int = 2_000_000
    burn_in_days: float = 1.0  # simulated before the window so that the logging policy starts warm; not logged
    mean_requests: float = 2.2  # per session
    mean_depth: float = 6.5  # posts scrolled to per request
    depth_deviation: float = 1.3
    slate_size: int = 12
    examination_exponent: float = 0.22  # chance to examine position j, once scrolled to, is (j + 1) ** -exponent
    weekend_lift: float = 1.15


@dataclass(frozen=True)
class PolicyConfig:
    """The logging policy: a mixture with known probabilities, refreshed every few hours."""

    popular_share: float = 0.30
    affinity_share: float = 0.50
    uniform_share: float = 0.20
    refresh_hours: float = 2.0
    popularity_half_life_hours: float = 36.0
    affinity_half_life_days: float = 5.0  # of the freshness weight inside a topic
    affinity_floor: float = 1.0  # pseudo-clicks spread over all topics
    follow_weight: float = 0.4  # pseudo-clicks that a follow gives its creator's topic
    recent_size: int = 48  # posts last seen by the user that are not shown again


@dataclass(frozen=True)
class TrendConfig:
    """Shocks that lift one topic's appeal for hours."""

    shocks_per_day: float = 3.0
    mean_lift: float = 0.7  # logits at the start of a shock
    mean_decay_hours: float = 8.0
