"""What a skew audit found: per feature how many values differ, why, and one example."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """Why a served value differs from its offline recomputation, the most serious last."""

    NOT_MATERIALIZED = "not materialised yet"
    CACHED = "cached"
    OUT_OF_BOUNDS = "out of bounds read as null"
    LIVE = "live"
    UNEXPLAINED = "unexplained"

    @property
    def seriousness(self) -> int:
        return list(Cause).index(self)


@dataclass(frozen=True)
class Example:
    """One differing value; `post_id` is None for a feature of the user or of the request."""

    request_id: str
    user_id: int
    post_id: int | None
    creator_id: int | None
    served_at: str
    served: str
    offline: str
    cause: Cause


@dataclass
class FeatureSkew:
    """Counts of one feature."""

    feature: str
    num_values: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)
    example: Example | None = None

    @property
    def num_different(self) -> int:
        return sum(self.causes.values())

    @property
    def share(self) -> float:
        """Share of values that differ."""
        return self.num_different / self.num_values if self.num_values else 0.0

    def add(self, cause: Cause, example: Example) -> None:
        """Counts a difference; the example of the most serious cause stays."""
        self.causes[cause] += 1
        if self.example is None or cause.seriousness > self.example.cause.seriousness:
            self.example = example


@dataclass(frozen=True)
class SkewReport:
    """A finished audit. `not_compared` counts by reason what had no offline counterpart."""

    dataset: str
    origin: str
    """logged: requests of the service; served now: requests made up for the audit."""
    first_served_at: str | None
    last_served_at: str | None
    num_requests: int
    num_posts: int
    features: tuple[FeatureSkew, ...]
    not_compared: Mapping[str, int]

    @property
    def num_values(self) -> int:
        return sum(f.num_values for f in self.features)

    @property
    def num_different(self) -> int:
        return sum(f.num_different for f in self.features)

    @property
    def share(self) -> float:
        """Share of all values that differ beyond rounding."""
        return self.num_different / self.num_values if self.num_values else 0.0

    @property
    def causes(self) -> Counter[Cause]:
        return sum((f.causes for f in self.features), Counter[Cause]())

    @property
    def num_unexplained(self) -> int:
        return self.causes[Cause.UNEXPLAINED]

    @property
    def worst(self) -> list[FeatureSkew]:
        """Features with differences, unexplained ones first, then by share."""
        differing = [f for f in self.features if f.num_different]
        return sorted(differing, key=lambda f: (-f.causes[Cause.UNEXPLAINED], -f.share, f.feature))

    def to_json(self) -> dict[str, Any]:
        """Everything, features without differences by name only."""
        return {
            **{name: getattr(self, name) for name in ("dataset", "origin", "first_served_at", "last_served_at")},
            "num_requests": self.num_requests,
            "num_posts": self.num_posts,
            "num_values": self.num_values,
            "num_different": self.num_different,
            "share": self.share,
            "causes": {cause.value: self.causes[cause] for cause in Cause},
            "not_compared": dict(self.not_compared),
            "worst": [
                {
                    "feature": f.feature,
                    "num_values": f.num_values,
                    "num_different": f.num_different,
                    "share": f.share,
                    "causes": {cause.value: count for cause, count in f.causes.items()},
                    "example": asdict(f.example) if f.example else None,
                }
                for f in self.worst
            ],
            "features_without_difference": [f.feature for f in self.features if not f.num_different],
        }
