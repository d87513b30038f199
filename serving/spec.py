"""The funnel spec: one typed declaration per surface of every source, stage, weight, rule and cache.

Every number says its unit and range. Reading files, overlays and error paths live in `spec_file`.
"""

import json
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.files import content_hash
from core.schema import HEADS, NEGATIVE_HEADS

POSITIVE_HEADS = tuple(head for head in HEADS if head not in NEGATIVE_HEADS)


class SpecModel(BaseModel):
    """A part of the spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceSpec(SpecModel):
    """What every source declares."""

    quota: int = Field(ge=1, le=100_000, description="Most candidates this source may bring.")
    weight: float = Field(
        default=1.0, ge=0, le=100, description="Share of this source when lists are blended; no unit."
    )


class TwoTowerSpec(SourceSpec):
    """Nearest posts of the user's vector, computed at request time."""

    kind: Literal["two_tower"]


class HistorySpec(SourceSpec):
    """Neighbours of chosen posts the user engaged with."""

    kind: Literal["history"]
    max_seeds: int = Field(default=20, ge=1, le=50, description="Most posts of the history used as seeds.")
    min_seed_integrity: float = Field(
        default=0.5, ge=0, le=1, description="Seeds below this integrity score are dropped."
    )
    max_seed_report_rate: float = Field(
        default=0.02, ge=0, le=1, description="Seeds reported more often are dropped; reports per impression."
    )
    half_life_hours: float = Field(default=72, gt=0, le=8760, description="Age at which a seed counts half, in hours.")
    max_age_hours: float = Field(default=8760, gt=0, le=87_600, description="Older engagements are no seeds, in hours.")
    kind_weights: dict[str, float] = Field(
        default_factory=lambda: {
            "click": 1.0, "like": 2.0, "comment": 3.0, "share": 4.0, "save": 3.0, "follow": 4.0, "long_view": 1.5,
        },
        description="Weight of a seed by the strongest engagement with it; no unit.",
    )  # fmt: skip

    @field_validator("kind_weights")
    @classmethod
    def _known_kinds(cls, weights: dict[str, float]) -> dict[str, float]:
        return _checked_weights(weights, POSITIVE_HEADS, lowest=0.0)


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
    max_age_hours: float = Field(default=168, gt=0, le=8760, description="Older posts are left out, in hours.")
    per_creator: int = Field(default=5, ge=1, le=100, description="Most posts of one creator.")


class FreshSpec(SourceSpec):
    """New posts that few users have seen, so that every post gets a start."""

    kind: Literal["fresh"]
    max_age_hours: float = Field(default=48, gt=0, le=8760, description="Older posts are left out, in hours.")
    max_impressions: int = Field(default=30, ge=0, le=1_000_000, description="Posts seen more often are left out.")


class RandomSpec(SourceSpec):
    """Uniformly drawn eligible posts: a baseline, and with a large quota the whole catalogue."""

    kind: Literal["random"]


AnySourceSpec = Annotated[
    TwoTowerSpec | HistorySpec | TrendingSpec | PopularSpec | FollowedSpec | FreshSpec | RandomSpec,
    Field(discriminator="kind"),
]


class BlendSpec(SpecModel):
    """How the sources' lists become one."""

    max_candidates: int = Field(default=1000, ge=1, le=100_000, description="Most candidates that leave retrieval.")
    rank_constant: float = Field(
        default=60,
        ge=1,
        le=10_000,
        description="k of reciprocal rank fusion, weight / (k + rank); larger flattens. Ranks.",
    )


class EligibilitySpec(SpecModel):
    """Which posts may be shown to whom, decided before any ranking."""

    language: Literal["match", "any"] = Field(default="match", description="match: the user's language or unknown.")
    country: Literal["match", "any"] = Field(default="any", description="match: the user's country or unknown.")
    hide_seen_days: float = Field(
        default=7, ge=0, le=365, description="A post seen within this time is left out, in days."
    )
    min_integrity: float = Field(
        default=0.3, ge=0, le=1, description="Posts below this integrity score are never shown."
    )
    max_age_days: float = Field(default=3650, gt=0, le=36_500, description="Older posts are left out, in days.")
    min_pool: int = Field(
        default=200,
        ge=0,
        le=100_000,
        description="Language and country yield when fewer posts than this stay eligible.",
    )


class FirstStageSpec(SpecModel):
    """The light ranker over cached post vectors."""

    keep: int = Field(default=120, ge=1, le=100_000, description="Candidates handed to the second stage.")


class SecondStageSpec(SpecModel):
    """The heavy ranker over all features."""

    max_candidates: int = Field(default=150, ge=1, le=100_000, description="Most candidates scored per request.")


class ValueModelSpec(SpecModel):
    """Score = sum of weight × calibrated probability of each engagement."""

    weights: dict[str, float] = Field(
        description="Weight by engagement kind. Multiplies the probability of one engagement, not a count."
    )

    @field_validator("weights")
    @classmethod
    def _known_heads(cls, weights: dict[str, float]) -> dict[str, float]:
        return _checked_weights(weights, HEADS, lowest=-1000.0)


class RerankSpec(SpecModel):
    """Rules over the ranked list."""

    creator_window: int = Field(
        default=2, ge=0, le=50, description="Posts in sequence that must differ in creator; 0 is off."
    )
    diversity: float = Field(
        default=0.05, ge=0, le=1, description="MMR weight: 0 only score, 1 only difference from the posts just above."
    )
    diversity_window: int = Field(default=5, ge=1, le=50, description="Posts above that a post should differ from.")
    freshness_boost: float = Field(
        default=0.0, ge=0, le=10, description="Relative boost of a brand-new post; 0.1 is 10 %."
    )
    freshness_half_life_hours: float = Field(
        default=24, gt=0, le=8760, description="Age at which the boost halves, in hours."
    )
    downrank_integrity_below: float = Field(
        default=0.5, ge=0, le=1, description="Integrity score below which a post sinks."
    )
    downrank_strength: float = Field(default=0.5, ge=0, le=1, description="Share of the score a doubtful post loses.")
    slate_size: int = Field(
        default=100, ge=1, le=100_000, description="Posts ranked per funnel run; pages are cut from them."
    )


class ExplorationSpec(SpecModel):
    """Slots that sometimes show another post than the best, with the probability logged."""

    probability: float = Field(default=0.0, ge=0, le=1, description="Chance that an exploring slot draws at random.")
    slots: tuple[int, ...] = Field(default=(), description="Positions that explore, 0 first.")
    pool: int = Field(default=20, ge=1, le=1000, description="Best remaining posts that an exploring slot draws from.")

    @field_validator("slots")
    @classmethod
    def _legal_slots(cls, slots: tuple[int, ...]) -> tuple[int, ...]:
        if any(slot < 0 for slot in slots) or len(set(slots)) != len(slots):
            raise ValueError("slots must be distinct positions from 0")
        return slots


class CacheSpec(SpecModel):
    """One cache: how much it holds and for how long."""

    max_entries: int = Field(ge=1, le=10_000_000, description="Most entries; the oldest leave first.")
    max_age_seconds: float = Field(gt=0, le=86_400, description="An older entry is read again, in seconds.")


class CachesSpec(SpecModel):
    """Every cache of the funnel. Keys: post id, creator id, cursor session."""

    post_features: CacheSpec = CacheSpec(max_entries=200_000, max_age_seconds=300)
    creator_features: CacheSpec = CacheSpec(max_entries=50_000, max_age_seconds=300)
    slates: CacheSpec = CacheSpec(max_entries=5_000, max_age_seconds=1_800)


class FunnelSpec(SpecModel):
    """The whole funnel of one surface."""

    surface: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="Where the feed is shown.")
    candidate_kind: Literal["post"] = Field(default="post", description="What is recommended.")
    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], AnySourceSpec] = Field(
        min_length=1, max_length=31, description="Sources by name; the name appears in replies and logs."
    )
    cold_start: tuple[str, ...] = Field(
        default=(), description="Sources used for a user without history; empty means all of them."
    )
    blend: BlendSpec = BlendSpec()
    eligibility: EligibilitySpec = EligibilitySpec()
    first_stage: FirstStageSpec | None = Field(default=None, description="null: candidates stay in blended order.")
    second_stage: SecondStageSpec | None = Field(default=None, description="null: the score is the previous stage's.")
    value_model: ValueModelSpec
    rerank: RerankSpec = RerankSpec()
    exploration: ExplorationSpec = ExplorationSpec()
    caches: CachesSpec = CachesSpec()

    @field_validator("cold_start")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a source is named twice")
        return names

    def model_post_init(self, context: object) -> None:
        unknown = [name for name in self.cold_start if name not in self.sources]
        if unknown:
            raise ValueError(f"cold_start names sources that are not declared: {', '.join(unknown)}")

    @cached_property
    def version(self) -> str:
        """`surface-hash`; equal content gives an equal version whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.surface}-{content_hash([canonical])}"


def _checked_weights(weights: dict[str, float], known: tuple[str, ...], lowest: float) -> dict[str, float]:
    for kind, weight in weights.items():
        if kind not in known:
            raise ValueError(f"unknown engagement kind {kind!r}; known are {', '.join(known)}")
        if not lowest <= weight <= 1000.0:
            raise ValueError(f"weight of {kind} is {weight}; expected {lowest:g} to 1000")
    return weights
