"""Users, creators, posts and what users wish, as the API takes and gives them. Ids are the product's own strings."""

from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator

from core.schema import CONTENT_DIM, MEDIA_TYPES
from feature_repo.catalog import CODES_LENGTH
from serving.schemas import ExternalId, FeedPost, Given

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639 code, lower case.")]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166 code, upper case.")]
Codes = Annotated[list[Annotated[int, Field(ge=-1, le=2**31 - 1)]], Field(max_length=CODES_LENGTH)]
EntityKind = Literal["user", "creator", "post"]
WishKind = Literal["follow", "hide", "block"]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


class UserIn(Given):
    """A user, whole: what is left out is unknown."""

    language: Language | None = None
    country: Country | None = None
    profile_codes: Codes = Field(default=[], description="Categorical attributes by position, -1 unknown.")


class CreatorIn(Given):
    """A creator, whole: what is left out is unknown."""

    language: Language | None = None
    country: Country | None = None


class PostIn(Given):
    """A post, whole: what is left out is unknown."""

    creator_id: ExternalId
    created_at: datetime | None = Field(default=None, description="Left out: as before, and now for a new post.")
    media_type: Literal[MEDIA_TYPES]  # type: ignore[valid-type]
    language: Language | None = None
    country: Country | None = None
    topic_id: int = Field(default=-1, ge=-1, le=2**31 - 1, description="Leaf topic, -1 unknown.")
    duration_seconds: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False)
    integrity_score: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False, description="1 harmless, 0 violating.")
    is_recommendable: bool = True
    content_codes: Codes = Field(default=[], description="Categorical attributes by position, -1 unknown.")
    content_embedding: list[Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]] | None = Field(
        default=None, min_length=CONTENT_DIM, max_length=CONTENT_DIM, description="Kept as a unit vector."
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.created_at is not None:
            if self.created_at.tzinfo is None:
                raise ValueError("created_at needs a time zone, such as 2026-03-14T09:30:00Z")
            if not 1970 <= self.created_at.year <= 9998:
                raise ValueError("created_at lies outside the years 1970 to 9998")
        # Kept as the log keeps them, so that a post reads the same before and after it is there.
        self.integrity_score = float(np.float32(self.integrity_score))
        if self.duration_seconds is not None:
            self.duration_seconds = float(np.float32(self.duration_seconds))
        if self.content_embedding is not None:
            vector = np.array(self.content_embedding, dtype=np.float64)
            length = float(np.linalg.norm(vector))
            if length < 1e-6:
                raise ValueError("content_embedding is zero everywhere; leave it out where there is none")
            # One that is a unit vector already stays as it is, so that what was read can be written again.
            vector = vector if abs(length - 1.0) < 1e-5 else vector / length
            self.content_embedding = vector.astype(np.float32).tolist()
        return self


class UserOut(UserIn):
    """A user."""

    user_id: str


class CreatorOut(CreatorIn):
    """A creator."""

    creator_id: str


class PostOut(BaseModel):
    """A post."""

    post_id: str
    creator_id: str
    created_at: datetime
    media_type: str
    language: str | None
    country: str | None
    topic_id: int
    duration_seconds: float | None
    integrity_score: float
    is_recommendable: bool
    content_codes: list[int]
    content_embedding: list[float] | None


class FollowOut(BaseModel):
    """A user follows a creator."""

    user_id: str
    creator_id: str


class HideOut(BaseModel):
    """A user does not want to see a post."""

    user_id: str
    post_id: str


class BlockOut(BaseModel):
    """A user does not want to see a creator."""

    user_id: str
    creator_id: str


class LineRefusal(BaseModel):
    """A line of an import that was not taken, and why."""

    line: int = Field(description="1 is the first.")
    field: str
    reason: str


class ImportReply(BaseModel):
    """What became of an import. What is accepted is on disk."""

    accepted: int
    unchanged: int = Field(description="Lines that say what is so already, or whose event_id was taken before.")
    refused: list[LineRefusal]


class PostList(BaseModel):
    """Posts, best first, with the reasons of a feed."""

    posts: list[FeedPost]
