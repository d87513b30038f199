"""The four lines of work that make the views: what each reads, computes per step and keeps for the next build."""

from dataclasses import dataclass, field
from typing import Literal

from core.schema import CONTENT_DIM
from feature_repo.building.sql import tallies
from feature_repo.catalog import AFFINITY_EVENTS, JOIN_KEYS, WINDOWS

Group = Literal["hourly", "profile"]
"""hourly rows are of an hour and nothing else; profile views also have rows of the instant of a change of profile."""


GROUPS: tuple[Group, ...] = ("hourly", "profile")


@dataclass(frozen=True)
class StateTable:
    """What is kept of a view's past: one row per `key` as of an hour, or the `limit` newest rows per `key`."""

    name: str
    columns: str
    key: tuple[str, ...]
    template: str
    limit: int | None = None
    newest_first: str = "as_of DESC"

    @property
    def ranked(self) -> str:
        """Condition that keeps what holds, of rows of several instants."""
        keys = ", ".join(self.key)
        return f"row_number() OVER (PARTITION BY {keys} ORDER BY {self.newest_first}) <= {self.limit or 1}"


@dataclass(frozen=True)
class Pipeline:
    """Views that share their input; `reads` are tables of the log.

    `prepare` runs once per span and `step` for each of its steps; `alone` instead of both where the span is one hour.
    """

    group: Group
    views: dict[str, str]
    reads: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    step: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    tables: tuple[StateTable, ...] = ()
    parameters: dict[str, object] = field(default_factory=dict)


_EVENTS = ("impressions", "engagements", "posts")
_CATALOGUE = ("follows", "users", "creators", "posts")


def pipelines(has_observed_kinds: bool) -> list[Pipeline]:
    """Every line of work: long ones first, so that two lanes end at about the same time, and before the first of
    the hourly ones, which reads the events for all of them, the one that does not wait for those.
    """
    return [
        _profiles(),
        _engaged(),
        _activity("post", has_observed_kinds),
        _activity("user", has_observed_kinds),
        _activity("creator", has_observed_kinds),
        Pipeline("profile", {"post_profile": "post_profile"}, _CATALOGUE),
    ]


def _activity(entity: str, has_observed_kinds: bool) -> Pipeline:
    sums = ", ".join(f"{tally}_{window} BIGINT" for window in WINDOWS for tally in tallies(has_observed_kinds))
    table = StateTable(f"{entity}_sums", f"key BIGINT, as_of INTEGER, {sums}", ("key",), "activity_state")
    view = f"{entity}_activity"
    return Pipeline(
        "hourly",
        {view: "activity"},
        _EVENTS,
        ("tiles",),
        ("activity_step",),
        ("activity_hour",),
        (table,),
        {"key": JOIN_KEYS[entity], "view": view, "table": table.name},
    )


def _engaged() -> Pipeline:
    columns = (
        "user_id BIGINT, post_id BIGINT, visible_hour INTEGER, creator_id BIGINT, at_seconds BIGINT, strength FLOAT, "
        "head INTEGER, topic_id BIGINT, media_type VARCHAR, version TIMESTAMPTZ, as_of INTEGER"
    )
    order = "visible_hour DESC, at_seconds DESC, post_id DESC"
    table = StateTable("engaged", columns, ("user_id",), "engaged_state", AFFINITY_EVENTS, order)
    # Flat, because of a list column DuckDB unpacks all to read the few that are needed.
    contents = ", ".join(f"e{i} FLOAT" for i in range(1, CONTENT_DIM + 1))
    versions = StateTable(
        "versions",
        "post_id BIGINT, version TIMESTAMPTZ, topic_id BIGINT, media_type VARCHAR, has_content BOOLEAN, "
        f"{contents}, as_of INTEGER",
        ("post_id", "version"),
        "versions_state",
    )
    views = {"user_history": "user_history", "user_affinity": "user_affinity"}
    return Pipeline("hourly", views, _EVENTS, ("versions", "entries"), ("engaged_step",), tables=(table, versions))


def _profiles() -> Pipeline:
    sums = ", ".join(f"e{i} DECIMAL(38, 0)" for i in range(1, CONTENT_DIM + 1))
    tables = (
        StateTable(
            "pairs",
            "user_id BIGINT, creator_id BIGINT, is_active BOOLEAN, event_at TIMESTAMPTZ, "
            "from_hour INTEGER, as_of INTEGER",
            ("user_id", "creator_id"),
            "pairs_state",
        ),
        StateTable(
            "users",
            "user_id BIGINT, country VARCHAR, language VARCHAR, profile_codes INTEGER[], known_at TIMESTAMPTZ, "
            "registered_at BIGINT, as_of INTEGER",
            ("user_id",),
            "users_state",
        ),
        StateTable(
            "creators",
            "creator_id BIGINT, country VARCHAR, language VARCHAR, known_at TIMESTAMPTZ, as_of INTEGER",
            ("creator_id",),
            "creators_state",
        ),
        StateTable(
            "creator_counts",
            "creator_id BIGINT, num_followers BIGINT, num_posts BIGINT, num_posts_7d BIGINT, as_of INTEGER",
            ("creator_id",),
            "creator_counts_state",
        ),
        StateTable(
            "contents", f"creator_id BIGINT, num_posts BIGINT, {sums}, as_of INTEGER", ("creator_id",), "contents_state"
        ),
    )
    views = {"user_profile": "user_profile", "creator_profile": "creator_profile"}
    return Pipeline("profile", views, _CATALOGUE, ("catalogue",), ("profiles_step",), tables=tables)
