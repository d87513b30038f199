"""What the API takes and gives. The names here are the public ones; ids are the product's own strings."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from core.ids import request_id_number
from events.journal import JOURNAL_KINDS

MAX_PAGE = 100
MAX_BATCH = 1_000
MAX_BODY_BYTES = 2_000_000

ExternalId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
RequestIdText = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="16 hex digits")]
SurfaceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Posts on the page.")]
CursorText = Annotated[str, Field(min_length=1, max_length=256, description="next_cursor of the page before.")]


def writable(text: str) -> str:
    """The text with what UTF-8 cannot hold replaced: JSON may name half of a surrogate pair."""
    return text.encode(errors="replace").decode()


class Given(BaseModel):
    """What a client sends: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class FeedContext(Given):
    """Circumstances of a request."""

    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$", description="ISO 639 code, lower case.")
    country: str | None = Field(default=None, pattern=r"^[A-Z]{2}$", description="ISO 3166 code, upper case.")
    device: Literal["ios", "android", "web"] | None = None
    session_id: ExternalId | None = Field(
        default=None, description="The product's own id of the visit; kept, not read."
    )


class FeedQuery(Given):
    """Body of POST /feed."""

    user_id: ExternalId
    limit: Limit = 20
    surface: SurfaceName | None = None
    cursor: CursorText | None = None
    explain: bool = False
    context: FeedContext = FeedContext()


class Why(BaseModel):
    """Why a post is where it is; null where the explanation is no longer held."""

    stage_scores: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None
    value_contributions: dict[str, float] | None = None
    rules: list[str] | None = None


class FeedPost(BaseModel):
    """One post of a page."""

    post_id: str
    creator_id: str
    position: int = Field(description="Place in the visit, 0 first.")
    score: float
    sources: list[str]
    media_type: str | None
    language: str | None
    country: str | None
    topic_id: int | None
    topic: str | None = Field(description="Readable name of the topic, where the data set has one.")
    created_at: datetime
    duration_seconds: float | None
    stage_scores: dict[str, float] | None = Field(default=None, description="With explain: score by stage.")
    probabilities: dict[str, float] | None = Field(default=None, description="With explain: calibrated, by engagement.")
    value_contributions: dict[str, float] | None = Field(
        default=None, description="With explain: weight × probability."
    )
    rules: list[str] | None = Field(default=None, description="With explain: rules that acted.")


class FeedReply(BaseModel):
    """One page of a feed."""

    request_id: str
    user_id: str
    surface: str
    spec_version: str
    model_versions: dict[str, str]
    posts: list[FeedPost]
    next_cursor: str | None
    degraded: list[str]


class ServedPost(Why):
    """One post as it was served."""

    post_id: str
    position: int
    propensity: float
    ranked_at: datetime
    sources: list[str]


class ServedReply(BaseModel):
    """A page as it was served, and why."""

    request_id: str
    surface: str
    requested_at: datetime
    spec_version: str
    model_versions: str
    degraded: list[str]
    posts: list[ServedPost]


class ExplainedStage(BaseModel):
    """What one stage did."""

    name: str
    num_in: int
    num_out: int
    ms: float = Field(description="Time in the stage, in milliseconds.")
    removed: dict[str, int] = Field(description="Posts removed by reason.")
    notes: list[str]


class ExplainedRanking(BaseModel):
    """One run of the funnel, or a slate that took its place."""

    ranking_id: str
    ranked_at: datetime
    num_posts: int
    degraded: list[str]
    stages: list[ExplainedStage]


class ExplainedPost(Why):
    """One post of an explained page."""

    post_id: str
    position: int
    ranking_id: str = Field(description="The ranking that the post comes from.")
    place: int = Field(description="Place in that ranking, 0 first.")
    score: float | None
    propensity: float = Field(description="Chance of this post at this place, given the posts above it.")
    sources: list[str]


class ExplainReply(BaseModel):
    """A page, the rankings behind it, and why each post is where it is."""

    request_id: str
    surface: str
    requested_at: datetime
    spec_version: str
    model_versions: dict[str, str]
    degraded: list[str]
    rankings: list[ExplainedRanking]
    posts: list[ExplainedPost]


class CacheReply(BaseModel):
    """One cache as declared and as measured."""

    name: str
    key: str
    invalidation: str
    max_entries: int
    max_age_seconds: float
    num_hits: int
    num_misses: int
    hit_rate: float


class EventIn(Given):
    """One thing a user saw or did."""

    event_id: ExternalId = Field(description="Your own; the same id counts once.")
    kind: Literal[JOURNAL_KINDS]  # type: ignore[valid-type]
    user_id: ExternalId
    post_id: ExternalId | None = None
    creator_id: ExternalId | None = None
    request_id: RequestIdText | None = Field(
        default=None, description="request_id of the feed reply that showed the post."
    )
    impression_id: ExternalId | None = Field(default=None, description="event_id of the impression acted on.")
    event_at: datetime | None = Field(default=None, description="On the platform's clock; left out: now.")
    position: int | None = Field(default=None, ge=0, le=100_000)
    surface: SurfaceName | None = None
    dwell_seconds: float | None = Field(default=None, ge=0, le=86_400, allow_inf_nan=False)

    @field_validator("request_id")
    @classmethod
    def _in_range(cls, text: str | None) -> str | None:
        if text is not None:
            request_id_number(text)
        return text


class EventBatch(Given):
    """Body of POST /events. Each event stands for itself: a wrong one is refused, the others are taken."""

    events: list[Annotated[Any, WithJsonSchema(EventIn.model_json_schema())]] = Field(
        min_length=1, max_length=MAX_BATCH
    )


class Refusal(BaseModel):
    """An event that was not taken, and why."""

    index: int
    event_id: str | None
    field: str
    reason: str


class EventReply(BaseModel):
    """What became of a batch. Accepted events are on disk."""

    accepted: int
    duplicates: int
    refused: list[Refusal]


class SampleUserReply(BaseModel):
    """A user to look at."""

    user_id: str
    country: str | None
    language: str | None
    num_engagements: int
    topics: list[str]


class Health(BaseModel):
    """Whether the process lives."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether feeds are served, and what they do without."""

    is_ready: bool
    degraded: list[str]
    stand_ins: list[str] = Field(description="Kinds of which an older version serves, the newest was refused.")
    spec_version: str
    surfaces: dict[str, str] = Field(description="Spec version by surface, the default one first.")
    spec_refused: str | None = Field(description="Why the spec files as they are do not serve; the ones before go on.")
    models_refused: list[str] = Field(description="Parts of newer models that do not load; the ones before go on.")
    snapshot_refused: str | None = Field(description="Why the snapshot on disk does not serve; the one before goes on.")
    model_versions: dict[str, str]
    snapshot_id: str
    now: datetime = Field(description="The platform's clock.")
