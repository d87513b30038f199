"""The funnel spec: one typed declaration per surface of every source, stage, weight, rule, deadline and cache.

Every number says its unit and range. Reading files, overlays and error paths live in `spec_file`, what can be
tuned and the JSON Schema in `spec_paths`.
"""

import json
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from core.files import content_hash
from core.schema import HEADS, NEGATIVE_HEADS
from serving.funnel.draw import Exploration, page_floor
from serving.spec_units import (
    Days,
    Entries,
    Factor,
    Hours,
    Impressions,
    Megabytes,
    Milliseconds,
    Positions,
    Posts,
    Ranks,
    Requests,
    Seconds,
    Share,
    Users,
)

POSITIVE_HEADS = tuple(head for head in HEADS if head not in NEGATIVE_HEADS)
_PAGE = 20
"""Posts of a page unless a client asks for another number."""


STAGES = ("user", "retrieval", "first_stage", "second_stage", "rerank")
"""The stages of a ranking in their order; each has a deadline."""


class SpecModel(BaseModel):
    """A part of the spec: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        return _known(weights, POSITIVE_HEADS)


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
        return _known(weights, HEADS)


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
    paging: PagingSpec = PagingSpec()
    precompute: PrecomputeSpec = PrecomputeSpec()
    overload: OverloadSpec = OverloadSpec()
    explanations: ExplanationsSpec = ExplanationsSpec()
    fallbacks: FallbackSpec = FallbackSpec()
    deadlines: DeadlinesSpec = Field(default=DeadlinesSpec(), validate_default=True)
    caches: CachesSpec = CachesSpec()

    @field_validator("sources")
    @classmethod
    def _in_one_order(cls, sources: dict[str, AnySourceSpec]) -> dict[str, AnySourceSpec]:
        # Equal versions must give equal slates: sums over sources and the numbers of their bits follow this order.
        return dict(sorted(sources.items()))

    @field_validator("cold_start")
    @classmethod
    def _declared_once(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a source is named twice")
        unknown = [name for name in names if name not in info.data.get("sources", names)]
        if unknown:
            raise ValueError(f"names sources that are not declared: {', '.join(unknown)}")
        return names

    @field_validator("deadlines")
    @classmethod
    def _longer_than_each_source(cls, deadlines: DeadlinesSpec, info: ValidationInfo) -> DeadlinesSpec:
        for name, source in info.data.get("sources", {}).items():
            if source.deadline_ms is not None and source.deadline_ms > deadlines.retrieval_ms:
                raise ValueError(
                    f"retrieval_ms is {deadlines.retrieval_ms:g}, sources.{name}.deadline_ms {source.deadline_ms:g}"
                )
        return deadlines

    @model_validator(mode="after")
    def _rules_can_be_kept(self) -> Self:
        unknown = [name for name in self.rerank.source_slots if name not in self.sources]
        if unknown:
            raise ValueError(f"rerank.source_slots names sources that are not declared: {', '.join(unknown)}")
        if self.kept_page_floor < self.exploration.page_floor:
            raise ValueError(
                f"exploration.page_floor is {self.exploration.page_floor:g}, but exploration and rerank rules keep "
                f"only {self.kept_page_floor:.4g}; raise exploration.probability or lower exploration.pool"
            )
        return self

    @property
    def kept_page_floor(self) -> float:
        """Least chance of each of the best `exploration.pool` posts to stand on a first page of 20."""
        explore, rerank = self.exploration, self.rerank
        draw = Exploration(explore.probability, frozenset(explore.slots) or None, explore.pool, explore.temperature)
        fixed = set(rerank.pins)
        for slot in rerank.source_slots.values():
            fixed |= set(range(slot.first, _PAGE, slot.every))
        num_floored = int(rerank.exposure_floor.share * _PAGE) if rerank.exposure_floor else 0
        return page_floor(draw, _PAGE, rerank.creator_window, len(fixed & set(range(_PAGE))) + num_floored)

    @cached_property
    def version(self) -> str:
        """`surface-hash`; equal content gives an equal version whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.surface}-{content_hash([canonical])}"


def _known(weights: dict[str, float], known: tuple[str, ...]) -> dict[str, float]:
    for kind in weights:
        if kind not in known:
            raise ValueError(f"unknown engagement kind {kind!r}; known are {', '.join(known)}")
    return weights
