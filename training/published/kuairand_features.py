"""What a model may know of each KuaiRand impression, as columns.

Everything made of labels is as of the midnight before the impression or earlier (`kuairand_known`), and never later
than the split's first test day: the test days are ranked with what was known before them. Of videos, a history row,
which has no time, knows other users' history (in folds of users, so that no label helps to predict itself).
Legend: N rows, L entries of history.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.published.kuairand_known import Known, known_before
from training.published.kuairand_log import KuaiRand
from training.published.kuairand_tastes import USER_STRENGTH, group_lifts, tastes, usual_rate

HISTORY_LENGTH = 20
DURATION_EDGES = np.array([10, 15, 20, 30, 40, 60, 80, 110, 150, 200, 300], dtype=np.float32)
"""Seconds at which the duration's buckets begin."""
RATE_HEADS = ("long_view", "like", "profile_enter")
"""Rates of the other heads would grow over the few dated days: a test row knows four of them, a training row none to
two, and only profile visits gained more than that costs; theirs are for trees alone."""
POST_STRENGTH, PAIR_STRENGTH = 20.0, 5.0
RARE_STRENGTH = 50.0
LIST_KINDS = {"viewed": 1, "skipped": 0}

Columns = dict[str, NDArray[Any]]


def kuairand_columns(data: KuaiRand, first_test_day: int) -> Columns:
    """Columns of all N rows as known before `first_test_day`."""
    known = known_before(data, first_test_day)
    rates = {name: values.astype(np.float32) for name, values in _rates(known).items()}
    return {**_attributes(data), **rates, **_histories(known)}


def _attributes(data: KuaiRand) -> Columns:
    seconds = data.seconds[data.videos]
    found: Columns = {
        "request__surface": data.surface,
        "request__hour": data.shown_hour,
        "post__video": data.videos,
        "post__author": data.authors[data.videos],
        "post__topic": data.topics[data.videos],
        "post__seconds": seconds,
        "post__length": _lengths(data)[data.videos],
    }
    for side, codes, rows in (("user", data.user_codes, data.users), ("post", data.video_codes, data.videos)):
        found |= {f"{side}__code_{i}": codes[rows, i].astype(np.int64) for i in range(codes.shape[1])}
    return found


def _lengths(data: KuaiRand) -> NDArray[np.int64]:
    """Bucket of each video's duration, -1 unknown, [V]."""
    return np.where(np.isfinite(data.seconds), np.searchsorted(DURATION_EDGES, data.seconds, side="right"), -1)


def _rates(known: Known) -> Columns:
    data, one = known.data, np.zeros(len(known.data.users), dtype=np.int64)
    topic, length = data.topics[data.videos] + 1, _lengths(data)[data.videos] + 1
    author = data.authors[data.videos]
    found: Columns = {}
    for head in RATE_HEADS:
        values = known.label(head)
        prior = float(np.nanmean(values[known.is_teaching]))
        is_rare = prior < 0.1
        is_dated = bool(np.isnan(values[data.is_history]).all())
        users, videos = known.of_user(one, values, is_running=is_dated), known.of_posts(data.videos, values)
        if head == "long_view":  # which every row tells
            found["user__count_rows"], found["post__count_rows"] = users.count, videos.count
        found[f"user__rate_{head}"] = users.rate(prior, RARE_STRENGTH if is_rare else USER_STRENGTH)
        found[f"post__rate_{head}"] = videos.rate(prior, RARE_STRENGTH if is_rare else POST_STRENGTH)
        found[f"post__author_rate_{head}"] = known.of_posts(author, values).rate(prior, RARE_STRENGTH)
        found[f"cross__topic_rate_{head}"] = known.of_user(topic, values, is_running=is_dated).rate(
            found[f"user__rate_{head}"], RARE_STRENGTH if is_rare else PAIR_STRENGTH
        )
    views, user_rate = known.label("long_view"), found["user__rate_long_view"]
    pairs = {"topic": topic, "author": author, "length": length, "video": data.videos}
    for name, keys in pairs.items():
        sums = known.of_user(keys, views)
        found[f"cross__{name}_lift"] = sums.rate(user_rate, PAIR_STRENGTH) - user_rate
        found[f"cross__{name}_count"] = sums.count
    found |= _lifts(known, {"author": author, "topic": topic, "topic_length": topic * 16 + length})
    surplus = views - usual_rate(known, views)
    usual = {"video": found["post__video_lift"], "topic": found["post__topic_lift"]}
    found |= group_lifts(known, surplus, {"video": data.videos, "topic": topic}, usual, POST_STRENGTH)
    return found | tastes(known, views - found["post__video_lift"], user_rate)


def _lifts(known: Known, keys: Mapping[str, NDArray[np.int64]]) -> Columns:
    """How much longer a video is watched than its viewers watch others: a rate that owes nothing to who they are."""
    data, views = known.data, known.label("long_view")
    surplus = views - usual_rate(known, views)
    by_surface = data.videos * (int(data.surface.max()) + 2) + data.surface + 1
    named = {"video": data.videos, **keys, "surface": by_surface}
    return {f"post__{name}_lift": known.of_posts(key, surplus).rate(0.0, POST_STRENGTH) for name, key in named.items()}


def _histories(known: Known) -> Columns:
    """The user's latest long views and latest skips, newest first, [N, L] each, -1 where there are no more."""
    data = known.data
    views = known.label("long_view")
    authors, lengths = data.authors, _lengths(data)
    found: Columns = {}
    for kind, outcome in LIST_KINDS.items():
        rows = latest(data.users, data.hour, known.own_as_of, known.block, views == outcome)
        videos = np.where(rows >= 0, data.videos[rows], -1)
        for name, of_video in (("author", authors), ("topic", data.topics), ("length", lengths)):
            found[f"{kind}__{name}"] = np.where(videos >= 0, of_video[videos], -1).astype(np.int32)
        found[f"{kind}__video"] = videos.astype(np.int32)
    return found


def latest(
    users: NDArray[np.int64],
    at: NDArray[np.int64],
    as_of: NDArray[np.int64],
    block: tuple[NDArray[np.int64], NDArray[np.int64]],
    is_listed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """For each row its user's listed rows with `at` < its `as_of`, newest first, [N, HISTORY_LENGTH]; -1 pads.

    Those from the block's start until its end, which is no later than `as_of`, are left out.
    """
    earliest = min(int(at.min()), int(as_of.min()), int(block[0].min()))
    span = max(int(at.max()), int(as_of.max())) - earliest + 1
    listed = np.flatnonzero(is_listed)
    place = users[listed] * span + at[listed] - earliest
    order = np.argsort(place, kind="stable")
    listed, place = listed[order], place[order]
    end, block_start, block_end = (np.searchsorted(place, users * span + of - earliest) for of in (as_of, *block))
    where = end[:, None] - 1 - np.arange(HISTORY_LENGTH)
    where -= np.where(where < block_end[:, None], (block_end - block_start)[:, None], 0)
    is_own = where >= np.searchsorted(place, users * span)[:, None]
    return np.where(is_own, listed[np.where(is_own, where, 0)] if len(listed) else -1, -1)
