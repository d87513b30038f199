"""What a world is made of. Every number that shapes the data is here and is hashed into its version."""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from core.errors import ConfigError
from core.schema import HEADS
from events.synthetic.components import (
    CatalogueConfig,
    Market,
    PeopleConfig,
    PolicyConfig,
    TopicConfig,
    TrendConfig,
    VisitConfig,
)
from events.synthetic.heads import HeadConfig, default_heads, flat_heads, other_heads

WORLD_MARKETS = (
    Market("US", "en", 0.28, -6.0),
    Market("GB", "en", 0.12, 0.0),
    Market("CA", "en", 0.05, -5.0),
    Market("MX", "es", 0.14, -6.0),
    Market("ES", "es", 0.10, 1.0),
    Market("BR", "pt", 0.14, -3.0),
    Market("DE", "de", 0.09, 1.0),
    Market("FR", "fr", 0.08, 1.0),
)


@dataclass(frozen=True)
class WorldConfig:
    """A whole world. Equal configs make bit-identical logs."""

    name: str = "world"
    seed: int = 20260315
    end_at: str = "2026-03-15T00:00:00+00:00"
    num_days: int = 14
    has_preferences: bool = True  # false: every user and post has the same probabilities
    markets: tuple[Market, ...] = WORLD_MARKETS
    topics: TopicConfig = field(default_factory=TopicConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    catalogue: CatalogueConfig = field(default_factory=CatalogueConfig)
    visits: VisitConfig = field(default_factory=VisitConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    trends: TrendConfig = field(default_factory=TrendConfig)
    heads: tuple[tuple[str, HeadConfig], ...] = field(default_factory=default_heads)

    def __post_init__(self) -> None:
        if tuple(name for name, _ in self.heads) != HEADS:
            raise ConfigError(f"heads of world {self.name!r} must be {', '.join(HEADS)} in this order")
        if min(self.people.num_users, self.catalogue.num_creators, self.catalogue.num_posts) < 1:
            raise ConfigError(f"world {self.name!r} needs at least one user, creator and post; raise the scale")
        shares = (self.policy.popular_share, self.policy.affinity_share, self.policy.uniform_share)
        if abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
            raise ConfigError(f"shares of the logging policy of world {self.name!r} are {shares}; they must sum to 1")

    @property
    def end_seconds(self) -> float:
        """Unix seconds at which the data ends, excluded."""
        return datetime.fromisoformat(self.end_at).astimezone(UTC).timestamp()

    @property
    def start_seconds(self) -> float:
        """Unix seconds at which the log starts."""
        return self.end_seconds - self.num_days * 86_400.0

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the markets, each once, in their order."""
        return tuple(dict.fromkeys(market.language for market in self.markets))

    def scaled(self, scale: float) -> "WorldConfig":
        """The same world with users, creators, posts and impressions multiplied by `scale`."""
        if scale <= 0:
            raise ConfigError(f"scale {scale} must be positive")
        return replace(
            self,
            people=replace(self.people, num_users=max(1, round(self.people.num_users * scale))),
            catalogue=replace(
                self.catalogue,
                num_creators=max(1, round(self.catalogue.num_creators * scale)),
                num_posts=max(1, round(self.catalogue.num_posts * scale)),
            ),
            visits=replace(self.visits, num_impressions=max(1, round(self.visits.num_impressions * scale))),
        )

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, for the manifest and the version."""
        plain: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return plain


OTHER_MARKETS = (
    Market("IN", "en", 0.25, 5.5),
    Market("PH", "en", 0.10, 8.0),
    Market("ID", "id", 0.22, 7.0),
    Market("JP", "ja", 0.18, 9.0),
    Market("TR", "tr", 0.13, 3.0),
    Market("IT", "it", 0.12, 1.0),
)

PRESETS = {
    "world": WorldConfig(),
    "world_b": WorldConfig(
        name="world_b",
        seed=20260416,
        end_at="2026-04-16T00:00:00+00:00",
        markets=OTHER_MARKETS,
        topics=TopicConfig(num_topics=10, num_subtopics=8, subtopic_share=0.35, zipf_exponent=0.6),
        catalogue=CatalogueConfig(encoder_noise=0.4, classifier_accuracy=0.8, life_weight=0.35),
        people=PeopleConfig(mean_follows=26.0, second_language_share=0.15, drifting_share=0.2),
        policy=PolicyConfig(popular_share=0.35, affinity_share=0.5, uniform_share=0.15),
        heads=other_heads(),
    ),
    "null_world": WorldConfig(name="null_world", seed=20260317, has_preferences=False, heads=flat_heads()),
}
"""Worlds by name; `PRESETS[name].scaled(scale)` sizes one."""
