"""Suites of the feature tables, built from the feature catalogue: a new feature is checked by its name's grammar.

num_x counts, rate_x and x_affinities are shares, x_at are unix seconds, is_x are 0 or 1; the few that the
grammar does not bound stand in RANGES. Every feature must have a value unless MAY_BE_NULL names it. The same ranges
become the online input bounds (bounds.py).

Views of what users did (activity, history, affinity) also keep their volume from day to day; every view is as fresh
as the log that it is made from.
"""

from datetime import datetime, timedelta
from itertools import pairwise

from core.schema import HEADS, MEDIA_TYPES
from feature_repo.catalog import CROSS_FIELDS, CROSS_VIEW, WINDOWS, FeatureField, View
from validation.rules import (
    Rule,
    Suite,
    first_of_key,
    holds,
    mean_within,
    never_null,
    newest_since,
    not_before,
    num_rows_at_least,
    one_of,
    within,
)

MAY_BE_NULL = {
    *("country", "language", "duration_seconds", "integrity_score", "content_embedding"),
    *("content_centroid", "followed_centroid"),
    *("profile_codes", "registered_at"),
}
"""Unknown in the source; a mean of nothing; unknown until the user's profile is."""

Range = tuple[float | None, float | None]

RANGES: dict[str, Range] = {
    "duration_seconds": (0.0, 7 * 86_400.0),
    "integrity_score": (0.0, 1.0),
    "topic_id": (-1, None),
    "creator_id": (0, None),
    # A post may be ranked a moment before its clock says that it was published.
    "post_age_hours": (-1.0, None),
    "content_similarity": (-1.001, 1.001),
    "followed_similarity": (-1.001, 1.001),
    "history_creator_matches": (0.0, None),
    "history_topic_matches": (0.0, None),
    # Less than 0 is a leak: the weights would know the row's future.
    "weights_age_hours": (0.0, None),
}
"""Smallest and largest legal value of the scalar features that no name pattern covers."""

FRESHNESS = timedelta(days=3)
FILLED_SHARE = 0.95
VOLUME: Range = (0.02, 50.0)
STEADY_SHARE = 0.8
"""Share of the inner days whose rows, over the median day's, must lie within VOLUME; as for the log itself."""

HOUR = timedelta(hours=1)

INSTANT = "timestamp[us, tz=UTC]"
_ARROW = {"float": "float", "int": "int64", "str": "string", "ints": "list of int64", "floats": "list of float"}


def feature_range(field: FeatureField) -> Range:
    """Smallest and largest legal value of a numeric scalar feature; None where a side is open."""
    if field.dtype not in ("float", "int"):
        return (None, None)
    if field.name in RANGES:
        return RANGES[field.name]
    if field.name.startswith("num_") or field.name.endswith("_at"):
        return (0, None)
    if field.name.startswith(("rate_", "is_")) or field.name.endswith("_affinity"):
        return (0.0, 1.0)
    return (None, None)


def view_types(view: View) -> dict[str, str]:
    """Declared type of every column of a feature table, as `tables.type_name` writes it."""
    types = {view.join_key: "int64"} | {feature.name: _ARROW[feature.dtype] for feature in view.fields}
    return types | {"event_at": INSTANT, "known_at": INSTANT}


def view_suite(view: View, end_at: datetime) -> Suite:
    """Suite of one feature table: legal values, counts that grow with the window, known after true, known entities.

    A row stands at the end of its hour, so it may lie up to one hour after `end_at`.
    """
    key = view.join_key
    rules = (
        never_null(key),
        holds("entity_is_known", f"{key} is not in the log's {view.entity}s"),
        never_null("event_at"),
        within("event_at", high=end_at + HOUR, reason="event_at lies after the end of the data"),
        never_null("known_at"),
        not_before("known_at", "event_at", "known_at is before event_at"),
        first_of_key((key, "event_at", "known_at")),
        *(_legal(feature) for feature in view.fields if feature_range(feature) != (None, None)),
        *_list_rules(view),
        *_nested_windows(view),
    )
    if any(feature.name == "media_type" for feature in view.fields):
        rules += (one_of("media_type", MEDIA_TYPES),)
    return Suite(view.name, view.name, rules)


def features_by_day(view: View, end_at: datetime, source_at: datetime | None = None) -> Suite:
    """Suite over one row per day of a feature table: rows, volume, freshness, plausible means, null rates.

    `source_at` is the newest event of the log that the view is made from, None where there is none: nobody may
    have engaged or followed yet.
    """
    is_of_use = view.name.endswith("_activity")
    rules = [num_rows_at_least(1)] if source_at or view.name.endswith(("_activity", "_profile")) else []
    if is_of_use:
        rules += [newest_since("newest_at", end_at - FRESHNESS), mean_within("mean_rate_click_total", 1e-4, 0.98)]
    elif source_at:
        rules.append(newest_since("newest_at", source_at - FRESHNESS))
    if not view.name.endswith("_profile"):
        reason = "too many days have a volume far from the median day's"
        rules.append(within("volume", *VOLUME, reason, "table", STEADY_SHARE))
    rules += [
        within(f"filled_{feature.name}", FILLED_SHARE, 1.0, f"{feature.name} is often missing on a day", "table")
        for feature in view.fields
        if feature.name not in MAY_BE_NULL
    ]
    return Suite(f"{view.name}_by_day", f"days of {view.name}", tuple(rules))


def cross_suite() -> Suite:
    """Suite of the features made at the request; they have no table, their ranges bound online inputs."""
    rules = tuple(_legal(feature) for feature in CROSS_FIELDS if feature_range(feature) != (None, None))
    return Suite(CROSS_VIEW, CROSS_VIEW, rules)


def _legal(feature: FeatureField) -> Rule:
    return within(feature.name, *feature_range(feature))


def _list_rules(view: View) -> list[Rule]:
    """Lists enter as their number of elements and keep to the catalogue's length."""
    return [
        within(feature.name, 0, feature.length, f"{feature.name} has more than {feature.length} elements")
        for feature in view.fields
        if feature.length
    ]


def _nested_windows(view: View) -> list[Rule]:
    """A longer window holds a shorter one: its count is at least as large."""
    names = {feature.name for feature in view.fields}
    windows = list(WINDOWS)
    return [
        not_before(
            f"num_{kind}_{longer}", f"num_{kind}_{shorter}", f"num_{kind} counts less in {longer} than in {shorter}"
        )
        for kind in ("impressions", *HEADS)
        for shorter, longer in pairwise(windows)
        if {f"num_{kind}_{shorter}", f"num_{kind}_{longer}"} <= names
    ]
