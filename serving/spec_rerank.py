"""Rules over the ranked list and exploration in the funnel spec."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from serving.spec_model import SpecModel
from serving.spec_units import Factor, Hours, Positions, Posts, Share


class ExposureFloorSpec(SpecModel):
    """A share of the slate that goes to creators few have seen."""

    share: Share = Field(
        ge=0, le=1, description="For every n, at least floor(share × n) of the first n posts; 0 is off."
    )
    quantile: Share = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Creators are small up to this quantile of impressions per creator, new ones always.",
    )


class SourceSlotSpec(SpecModel):
    """Positions that belong to one source."""

    every: Positions = Field(ge=1, le=1000, description="Distance from one position of the source to the next.")
    first: Positions = Field(default=0, ge=0, le=1000, description="The source's first position in a visit, 0 first.")


class RerankSpec(SpecModel):
    """Rules over the ranked list. Each can be off on a surface; what a rule moved names it in its explanation."""

    creator_window: Positions = Field(
        default=2, ge=0, le=50, description="Posts in sequence that must differ in creator; 0 is off."
    )
    diversity: Share = Field(
        default=0.05, ge=0, le=1, description="Weight of diversity: 0 only score, 1 only difference from posts above."
    )
    diversity_by: Literal["mmr", "dpp"] = Field(
        default="mmr",
        description="mmr: distance from the most similar post above; dpp: volume added to the posts above.",
    )
    diversity_window: Positions = Field(
        default=5, ge=1, le=50, description="Posts above that a post should differ from."
    )
    freshness_boost: Factor = Field(
        default=0.0, ge=0, le=10, description="Relative boost of a brand-new post; 0.1 is 10 %."
    )
    freshness_half_life_hours: Hours = Field(
        default=24, gt=0, le=8760, description="Age at which the boost halves, in hours."
    )
    downrank_integrity_below: Share = Field(
        default=0.5, ge=0, le=1, description="Integrity score below which a post sinks."
    )
    downrank_strength: Share = Field(default=0.5, ge=0, le=1, description="Share of the score a doubtful post loses.")
    exposure_floor: ExposureFloorSpec | None = Field(default=None, description="null: no share for small creators.")
    source_slots: dict[str, SourceSlotSpec] = Field(
        default_factory=dict, description="Positions by source name; the best allowed post of the source takes them."
    )
    pins: dict[Annotated[Positions, Field(ge=0, le=1000)], Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        default_factory=dict,
        description="Post id by position in the visit, 0 first; left out where the user may not see the post.",
    )
    slate_size: Posts = Field(
        default=100, ge=1, le=100_000, description="Posts ranked per funnel run; pages are cut from them."
    )

    @field_validator("pins")
    @classmethod
    def _distinct_pins(cls, pins: dict[int, str]) -> dict[int, str]:
        if len(set(pins.values())) != len(pins):
            raise ValueError("a post is pinned twice")
        return pins


class ExplorationSpec(SpecModel):
    """Positions that draw instead of taking the best post, with the exact probability logged."""

    temperature: Factor = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Softmax temperature of a draw, as a share of the score spread of the pool; 0 takes the best.",
    )
    probability: Share = Field(
        default=0.0, ge=0, le=1, description="Chance that a position draws uniformly from the pool instead."
    )
    slots: tuple[Annotated[Positions, Field(ge=0, le=1000)], ...] = Field(
        default=(), description="Positions that explore, 0 first; empty means all."
    )
    pool: Posts = Field(default=50, ge=1, le=1000, description="Best remaining posts that a uniform draw takes from.")
    page_floor: Share = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Least chance of each of the best `pool` posts to stand on a first page of 20, whatever the "
        "scores; a spec that cannot keep it is refused.",
    )

    @field_validator("slots")
    @classmethod
    def _legal_slots(cls, slots: tuple[int, ...]) -> tuple[int, ...]:
        if any(slot < 0 for slot in slots) or len(set(slots)) != len(slots):
            raise ValueError("slots must be distinct positions from 0")
        return slots
