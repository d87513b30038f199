"""Paging, overload, explanations and what is served without ranking, in the funnel spec."""

from typing import Literal

from pydantic import Field, field_validator

from serving.spec_model import SpecModel
from serving.spec_units import Hours, Megabytes, Milliseconds, Requests, Seconds, Users


class PagingSpec(SpecModel):
    """How a visit goes on from page to page."""

    cursor_max_age_hours: Hours = Field(
        default=24, gt=0, le=720, description="Age at which a cursor is refused, in hours of wall time."
    )
    prefetch: bool = Field(default=True, description="Whether the next page is ranked before it is asked for.")


class OverloadSpec(SpecModel):
    """When the feed stops ranking and answers from what was precomputed."""

    max_in_flight: Requests = Field(
        default=2, ge=1, le=1000, description="Feed requests worked on at once per process."
    )
    max_queue: Requests = Field(default=8, ge=0, le=10_000, description="Feed requests that may wait for their turn.")
    max_wait_ms: Milliseconds = Field(
        default=40, ge=0, le=10_000, description="Longest wait for a turn, in milliseconds."
    )
    busy_wait_ms: Milliseconds = Field(
        default=10,
        ge=0,
        le=10_000,
        description="Longest wait while all turns are taken nearly all the time, in milliseconds.",
    )
    max_shed: Requests = Field(
        default=2, ge=0, le=10_000, description="Excess requests answered without ranking at once; others get a 503."
    )


class ExplanationsSpec(SpecModel):
    """How long and within what room it stays known why each post was served."""

    max_age_hours: Hours = Field(default=360, ge=1, le=8760, description="Older explanations leave, in hours.")
    max_megabytes: Megabytes = Field(
        default=4_096, gt=0, le=1e6, description="Room on disk; the oldest leave first, in megabytes."
    )


class FallbackSpec(SpecModel):
    """What is served when nothing personal can be ranked."""

    order: tuple[Literal["precomputed", "popular"], ...] = Field(
        default=("precomputed", "popular"), description="Tried in turn; popular is always there and comes last."
    )

    @field_validator("order")
    @classmethod
    def _ends_well(cls, order: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(order)) != len(order) or order[-1:] != ("popular",):
            raise ValueError("expected each once and popular last, such as [precomputed, popular]")
        return order


class PrecomputeSpec(SpecModel):
    """Whole feeds stored off-peak for the most active users; each names the version of the spec that made it."""

    enabled: bool = Field(default=False, description="Whether feeds are stored at all.")
    max_users: Users = Field(default=10_000, ge=1, le=100_000_000, description="Most users, the most active first.")
    max_age_seconds: Seconds = Field(
        default=86_400, gt=0, le=604_800, description="An older stored feed is not served, in seconds."
    )
