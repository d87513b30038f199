"""Caches and deadlines in the funnel spec."""

from pydantic import Field, ValidationInfo, field_validator

from serving.spec_model import SpecModel
from serving.spec_units import Entries, Milliseconds, Seconds

STAGES = ("user", "retrieval", "first_stage", "second_stage", "rerank")
"""The stages of a ranking in their order; each has a deadline."""


class CacheSpec(SpecModel):
    """One cache: how much it holds and for how long."""

    max_entries: Entries = Field(ge=1, le=10_000_000, description="Most entries; the oldest leave first.")
    max_age_seconds: Seconds = Field(gt=0, le=86_400, description="An older entry is read again, in seconds.")


class CachesSpec(SpecModel):
    """Every cache of the funnel. What each is keyed by and what drops an entry early: `serving/caches.py`."""

    post_features: CacheSpec = Field(
        default=CacheSpec(max_entries=200_000, max_age_seconds=300),
        description="By post id; leaves by age, a written post at once.",
    )
    creator_features: CacheSpec = Field(
        default=CacheSpec(max_entries=50_000, max_age_seconds=300), description="By creator id; leaves by age."
    )
    eligibility: CacheSpec = Field(
        default=CacheSpec(max_entries=32, max_age_seconds=3_600),
        description="By language, country and hour; written posts are put right.",
    )
    slates: CacheSpec = Field(
        default=CacheSpec(max_entries=5_000, max_age_seconds=1_800),
        description="By ranked list; leaves by age, and what was hidden, blocked, muted or deleted at once.",
    )


class DeadlinesSpec(SpecModel):
    """How long a request and its stages may take. What a stage overruns by, the rankers after it lose."""

    request_ms: Milliseconds = Field(default=100, gt=0, le=60_000, description="One ranking as a whole.")
    user_ms: Milliseconds = Field(
        default=15, gt=0, le=10_000, description="Features and controls of the user, eligibility."
    )
    retrieval_ms: Milliseconds = Field(
        default=30, gt=0, le=10_000, description="All sources together; a later one is dropped."
    )
    first_stage_ms: Milliseconds = Field(
        default=5, gt=0, le=10_000, description="The light ranker; skipped when no time is left."
    )
    second_stage_ms: Milliseconds = Field(
        default=40, gt=0, le=10_000, description="The heavy ranker; with less time left it scores fewer candidates."
    )
    rerank_ms: Milliseconds = Field(
        default=10, gt=0, le=10_000, validate_default=True, description="The rules; they always run."
    )

    @field_validator("rerank_ms")
    @classmethod
    def _fit_into_the_request(cls, rerank_ms: float, info: ValidationInfo) -> float:
        if len(info.data) == len(STAGES):  # all of the others are usable
            total = rerank_ms + sum(info.data[f"{stage}_ms"] for stage in STAGES if stage != "rerank")
            if total > info.data["request_ms"]:
                raise ValueError(f"the stages may take {total:g} ms, request_ms is {info.data['request_ms']:g}")
        return rerank_ms
