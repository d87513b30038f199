"""Eligibility, the two ranking stages and the value model in the funnel spec."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from core.schema import HEADS
from serving.spec_model import SpecModel, known_kinds
from serving.spec_units import Days, Factor, Posts, Share


class EligibilitySpec(SpecModel):
    """Which posts may be shown to whom, decided before any ranking."""

    language: Literal["match", "any"] = Field(default="match", description="match: the user's language or unknown.")
    country: Literal["match", "any"] = Field(default="any", description="match: the user's country or unknown.")
    hide_seen_days: Days = Field(
        default=7, ge=0, le=365, description="A post seen within this time is left out, in days."
    )
    min_integrity: Share = Field(
        default=0.3, ge=0, le=1, description="Posts below this integrity score are never shown."
    )
    max_age_days: Days = Field(default=3650, gt=0, le=36_500, description="Older posts are left out, in days.")
    hide_muted_topics: bool = Field(default=True, description="Whether posts of a topic that the user muted stay out.")
    min_pool: Posts = Field(
        default=200,
        ge=0,
        le=100_000,
        description="Language and country yield when fewer posts than this stay eligible.",
    )


class FirstStageSpec(SpecModel):
    """The light ranker over cached post vectors."""

    keep: Posts = Field(default=120, ge=1, le=100_000, description="Candidates handed to the second stage.")


class SecondStageSpec(SpecModel):
    """The heavy ranker over all features."""

    max_candidates: Posts = Field(default=150, ge=1, le=100_000, description="Most candidates scored per request.")


class ValueModelSpec(SpecModel):
    """Score = sum of weight × calibrated probability of each engagement."""

    weights: dict[str, Annotated[Factor, Field(ge=-1000, le=1000)]] = Field(
        description="Weight by engagement kind. Multiplies the probability of one engagement, not a count.",
        json_schema_extra={"propertyNames": {"enum": list(HEADS)}},
    )

    @field_validator("weights")
    @classmethod
    def _known_heads(cls, weights: dict[str, float]) -> dict[str, float]:
        return known_kinds(weights, HEADS)
