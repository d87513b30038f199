"""Vectors of users and posts over all of history, each by weights that had seen nothing after it.

    events ───────T1────────────T2────────────T3──────▶     snapshot j has learned from events until T_j
    rows   (none)   [ by snapshot 1 [ by snapshot 2 [ ...    and makes the rows from an hour after T_j on

A row of a user holds from the hour it names until the next; it reads the events visible by that hour and no other.
Where weights change, every user and post gets a row at that hour, since vectors of two snapshots do not compare.
Legend: N rows, D width of vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.schema import INSTANT
from feature_repo.catalog import FOUNDATION_HEADS
from models.bundle import FoundationBundle
from models.encode import encode
from training.foundation_events import HOUR, PUBLISHED_AFTER, Catalogue, UserEvents
from training.foundation_windows import cut_windows, encode_windows

WINDOW_BATCH = 128
POST_BATCH = 8_192
TRAINING_HOURS = 1
"""Hours that a training is taken to need: a snapshot makes no row before."""

Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Segment:
    """Hours `since` to `before` (left out), whose rows `bundle` makes; it has learned from events until `until`."""

    bundle: FoundationBundle
    until: int
    since: int
    before: int


def segments(bundles: Sequence[tuple[FoundationBundle, int]], last_hour: int) -> list[Segment]:
    """One per snapshot, given as (bundle, hour until which it learned), oldest first."""
    since = [until + TRAINING_HOURS for _, until in bundles]
    ends = [*since[1:], last_hour + 1]
    return [Segment(b, t, s, e) for (b, t), s, e in zip(bundles, since, ends, strict=True) if s < e]


def user_rows(events: UserEvents, segment: Segment) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User row and hour of every row of the segment, [N] each, by user and hour."""
    everyone = np.flatnonzero(events.from_hour <= segment.since)
    later = np.flatnonzero((events.from_hour > segment.since) & (events.from_hour < segment.before))
    is_change = (events.hour > segment.since) & (events.hour < segment.before)
    users = np.concatenate([everyone, later, events.user_of()[is_change]])
    hours = np.concatenate([np.full(len(everyone), segment.since), events.from_hour[later], events.hour[is_change]])
    pairs = np.unique(np.stack([users, hours], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


@torch.inference_mode()
def user_table(
    events: UserEvents, catalogue: Catalogue, segment: Segment, told: Told = lambda what, done, total: None
) -> pa.Table:
    """Rows of `user_foundation` that the segment's snapshot makes."""
    users, hours = user_rows(events, segment)
    past = events.until(segment.before - 1)
    counts = past.count_visible(users, hours)
    module, spec = segment.bundle.module, segment.bundle.spec
    windows = cut_windows(past, module.config.window)
    window, place = windows.locate(users, counts)
    vectors = torch.empty(len(users), module.config.dim)
    side, nothing = encode(spec, "user", past.columns), np.empty(0, dtype=np.int64)
    posts = encode(spec, "post", catalogue.columns)
    wanted, of_wanted = np.unique(window, return_inverse=True)
    order = np.argsort(of_wanted, kind="stable")
    edges = np.searchsorted(of_wanted[order], np.arange(0, len(wanted) + WINDOW_BATCH, WINDOW_BATCH))
    for number, (lo, hi) in enumerate(pairwise(edges)):
        chosen, rows = wanted[number * WINDOW_BATCH : (number + 1) * WINDOW_BATCH], order[lo:hi]
        states, *_ = encode_windows(module, windows, chosen, side, posts, nothing)
        of_row = of_wanted[rows] - number * WINDOW_BATCH
        vectors[rows] = module.user_vectors(states[torch.from_numpy(of_row), torch.from_numpy(place[rows])])
        told("vectors of users", number + 1, len(edges) - 1)
    found = {"user_id": pa.array(events.user_ids[users]), "num_events": pa.array(counts.astype(np.float32))}
    found |= {head: _lists(module.exported_users(vectors, head)) for head in FOUNDATION_HEADS}
    return pa.table(found | _clocks(hours, segment))


@torch.inference_mode()
def post_table(catalogue: Catalogue, segment: Segment) -> pa.Table:
    """Rows of `post_foundation` that the segment's snapshot makes."""
    rows = np.flatnonzero(catalogue.from_hour < segment.before)
    hours = np.maximum(catalogue.from_hour[rows], segment.since)
    posts = encode(segment.bundle.spec, "post", catalogue.columns).take(torch.from_numpy(rows))
    batches = torch.split(torch.arange(len(rows)), POST_BATCH)
    module = segment.bundle.module
    vectors = _lists(module.exported_posts(torch.cat([module.posts(posts.take(batch))[1] for batch in batches])))
    return pa.table({"post_id": pa.array(catalogue.ids[rows]), "vector": vectors} | _clocks(hours, segment))


def _lists(vectors_ND: Tensor) -> pa.Array:
    offsets = np.arange(len(vectors_ND) + 1, dtype=np.int32) * vectors_ND.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors_ND.contiguous().numpy().ravel()))


def _clocks(hours: NDArray[np.int64], segment: Segment) -> dict[str, pa.Array]:
    """The columns that both views share, of rows of these hours."""
    return {
        "weights_age_hours": pa.array((hours - segment.until).astype(np.float32)),
        "event_at": pa.array(hours * HOUR * 1_000_000).cast(INSTANT),
        "known_at": pa.array((hours * HOUR + PUBLISHED_AFTER) * 1_000_000).cast(INSTANT),
    }
