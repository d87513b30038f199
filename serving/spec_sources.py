"""Sources of candidates in the funnel spec, and how their lists become one."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from serving.spec_model import POSITIVE_HEADS, SpecModel, known_kinds
from serving.spec_units import Factor, Hours, Impressions, Milliseconds, Posts, Ranks, Share


class SourceSpec(SpecModel):
    """What every source declares."""

    quota: Posts = Field(ge=1, le=100_000, description="Most candidates this source may bring.")
    weight: Factor = Field(
        default=1.0, ge=0, le=100, description="Share of this source when lists are blended; no unit."
    )
    deadline_ms: Milliseconds | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="Dropped when later, in milliseconds; null: looked up in the request's own thread.",
    )


class TwoTowerSpec(SourceSpec):
    """Nearest posts of the user's vector, computed at request time."""

    kind: Literal["two_tower"]
    deadline_ms: Milliseconds | None = Field(
        default=30.0,
        gt=0,
        le=10_000,
        description="Dropped when later, in milliseconds; null: looked up in the request's own thread.",
    )


class HistorySpec(SourceSpec):
    """Neighbours of chosen posts the user engaged with."""

    kind: Literal["history"]
    max_seeds: Posts = Field(default=20, ge=1, le=50, description="Most posts of the history used as seeds.")
    min_seed_integrity: Share = Field(
        default=0.5, ge=0, le=1, description="Seeds below this integrity score are dropped."
    )
    max_seed_report_rate: Share = Field(
        default=0.02, ge=0, le=1, description="Seeds reported more often are dropped; reports per impression."
    )
    half_life_hours: Hours = Field(default=72, gt=0, le=8760, description="Age at which a seed counts half, in hours.")
    max_age_hours: Hours = Field(default=8760, gt=0, le=87_600, description="Older engagements are no seeds, in hours.")
    kind_weights: dict[str, Annotated[Factor, Field(ge=0, le=1000)]] = Field(
        default_factory=lambda: {
            "click": 1.0, "like": 2.0, "comment": 3.0, "share": 4.0, "save": 3.0, "follow": 4.0, "long_view": 1.5,
        },
        description="Weight of a seed by the strongest engagement with it; no unit.",
        json_schema_extra={"propertyNames": {"enum": list(POSITIVE_HEADS)}},
    )  # fmt: skip

    @field_validator("kind_weights")
    @classmethod
    def _known_kinds(cls, weights: dict[str, float]) -> dict[str, float]:
        return known_kinds(weights, POSITIVE_HEADS)


class TrendingSpec(SourceSpec):
    """Posts with the most recent engagement, decayed, in the user's language and everywhere."""

    kind: Literal["trending"]


class PopularSpec(SourceSpec):
    """Posts that did best in a segment of users, generated off-peak."""

    kind: Literal["popular"]
    segment: Literal["country", "language", "everyone"] = Field(default="country", description="Whose taste counts.")


class FollowedSpec(SourceSpec):
    """Newest posts of the creators the user follows."""

    kind: Literal["followed"]
    max_age_hours: Hours = Field(default=168, gt=0, le=8760, description="Older posts are left out, in hours.")
    per_creator: Posts = Field(default=5, ge=1, le=100, description="Most posts of one creator.")


class FreshSpec(SourceSpec):
    """New posts that few users have seen, so that every post gets a start."""

    kind: Literal["fresh"]
    max_age_hours: Hours = Field(default=48, gt=0, le=8760, description="Older posts are left out, in hours.")
    max_impressions: Impressions = Field(
        default=30, ge=0, le=1_000_000, description="Posts seen more often are left out."
    )


class RandomSpec(SourceSpec):
    """Uniformly drawn eligible posts: a baseline, and with a large quota the whole catalogue."""

    kind: Literal["random"]


AnySourceSpec = Annotated[
    TwoTowerSpec | HistorySpec | TrendingSpec | PopularSpec | FollowedSpec | FreshSpec | RandomSpec,
    Field(discriminator="kind"),
]


class BlendSpec(SpecModel):
    """How the sources' lists become one."""

    max_candidates: Posts = Field(default=1000, ge=1, le=100_000, description="Most candidates that leave retrieval.")
    rank_constant: Ranks = Field(
        default=60,
        ge=1,
        le=10_000,
        description="k of reciprocal rank fusion, weight / (k + rank); larger flattens. Ranks.",
    )
