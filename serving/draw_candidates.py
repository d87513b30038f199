"""Draws wide candidate sets for sampled requests and ranks them in full: what the first stage learns from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from core.errors import MissingStageError, StoreUnavailableError
from core.schema import CANDIDATES, REQUESTS
from core.settings import Settings
from core.workspace import Workspace
from events.log import replace_all
from serving.bootstrap import Runtime, build_runtime
from serving.funnel.request import FeedRequest, Slate
from serving.funnel.runner import Funnel
from serving.snapshot import Snapshot
from serving.spec import FunnelSpec
from serving.spec_file import load_overlay, load_spec, with_overlay

RECENT_DAYS = 3
_BATCH = 10_000

Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True)
class DrawReport:
    """What was drawn, and how long reading features and ranking took, in seconds."""

    num_requests: int
    num_rows: int
    warm_seconds: float
    rank_seconds: float


def draw(
    settings: Settings,
    num_requests: int,
    num_candidates: int,
    seed: int,
    progress: Progress = lambda steps, total: steps,
    runtime: Runtime | None = None,
) -> DrawReport:
    """Replaces the table `candidates`. Every request is ranked as of the platform's now, on features of now.

    Raises StoreUnavailableError without the online store and MissingStageError without models: rows ranked
    by a fallback would teach the first stage the fallback.
    """
    spec = draw_spec(load_spec(settings.funnel_spec), num_candidates)
    runtime = runtime or build_runtime(settings, spec)
    if runtime.parts.second_stage is None:
        raise MissingStageError("second_stage bundle", settings.workspace.bundles, "python -m training second-stage")
    at = runtime.clock.now()
    anchor_at = settings.workspace.manifest().anchor_at
    if anchor_at is not None and settings.clock == "auto":
        at = anchor_at  # the same rows whenever and however slowly this runs
    funnel = runtime.funnel_for(spec)
    rng = np.random.default_rng(seed)
    requests = sample_requests(settings.workspace, runtime.snapshot, num_requests, at, rng)
    began = perf_counter()
    _warm(funnel, requests, at)
    warm_seconds, began = perf_counter() - began, perf_counter()
    slates = []
    for place in progress(range(len(requests)), len(requests)):
        slate = funnel.rank(requests[place])
        if slate.degraded:
            raise StoreUnavailableError(
                f"request {requests[place].request_id} could not be ranked in full (without "
                f"{', '.join(slate.degraded)}); train retrieval and second stage, "
                "then run `python -m feature_repo materialize`"
            )
        slates.append(slate)
    rank_seconds = perf_counter() - began
    rows = _table([slate for slate in slates if len(slate)])
    replace_all(settings.workspace.log, CANDIDATES.name, rows)
    return DrawReport(len(slates), rows.num_rows, warm_seconds, rank_seconds)


def draw_spec(spec: FunnelSpec, num_candidates: int) -> FunnelSpec:
    """The spec opened wide: `num_candidates` per request, all ranked by the second stage, no cut."""
    wide = with_overlay(spec, load_overlay("draw_candidates"))
    sizes = {
        "blend": {"max_candidates": num_candidates},
        "second_stage": {"max_candidates": num_candidates},
        # The rank that is learnt is the value model's; rules would cost time and move posts.
        "rerank": {"slate_size": num_candidates, "creator_window": 0, "diversity": 0.0},
        "exploration": {"probability": 0.0},
    }
    return with_overlay(wide, sizes)


def sample_requests(
    workspace: Workspace, snapshot: Snapshot, count: int, at: datetime, rng: np.random.Generator
) -> list[FeedRequest]:
    """Requests of the last days, drawn uniformly; made up for drawn users where the log has no requests."""
    rows = _recent_requests(workspace, at)
    if rows.num_rows == 0:
        users = snapshot.users.user_ids
        chosen = rng.choice(users, size=min(count, len(users)), replace=False) if len(users) else users
        return [FeedRequest(int(user), at, request_id=place + 1) for place, user in enumerate(np.sort(chosen))]
    places = np.sort(rng.choice(rows.num_rows, size=min(count, rows.num_rows), replace=False))
    return [
        FeedRequest(
            user_id=row["user_id"],
            at=at,
            surface=row["surface"],
            request_id=row["request_id"],
            session_id=row["session_id"],
            country=row["country"],
            language=row["language"],
            device=row["device"],
        )
        for row in rows.take(pa.array(places)).to_pylist()
    ]


def _recent_requests(workspace: Workspace, at: datetime) -> pa.Table:
    days = [(at - timedelta(days=back)).date().isoformat() for back in range(RECENT_DAYS + 1)]
    folder = workspace.log / REQUESTS.name
    files = sorted(str(file) for day in days for file in (folder / f"day={day}").glob("*.parquet"))
    if not files:
        return REQUESTS.arrow.empty_table()
    table = ds.dataset(files, schema=REQUESTS.arrow).to_table()
    return table.sort_by("request_id")


def _warm(funnel: Funnel, requests: list[FeedRequest], at: datetime) -> None:
    """Reads the features of all users and of all recommendable posts in bulk."""
    users = np.unique(np.array([request.user_id for request in requests], dtype=np.int64))
    if len(users):
        funnel.features.preload_users(users)
    catalogue = funnel.snapshot.catalogue
    rows = np.flatnonzero(catalogue.is_recommendable)
    for start in range(0, len(rows), _BATCH):
        funnel.features.post_columns(rows[start : start + _BATCH], at.timestamp())


def _table(slates: list[Slate]) -> pa.Table:
    """Rows of the table `candidates`, rank 0 best by the value model alone."""
    if not slates:
        return CANDIDATES.arrow.empty_table()
    counts = np.array([len(slate) for slate in slates])
    values = [slate.candidates.scores["value"] for slate in slates]
    columns = {
        "request_id": _repeat([slate.request_id for slate in slates], counts),
        "user_id": _repeat([slate.user_id for slate in slates], counts),
        "post_id": np.concatenate([slate.post_ids for slate in slates]),
        "sources": pa.array(
            [slate.sources_of(i) for slate in slates for i in range(len(slate))], pa.list_(pa.string())
        ),
        "score": np.concatenate(values).astype(np.float32),
        "rank": np.concatenate([_ranks(value) for value in values]),
        "num_candidates": _repeat(counts.tolist(), counts).astype(np.int32),
    }
    instants = pa.array([slate.served_at for slate in slates], CANDIDATES.arrow.field("event_at").type)
    event_at = instants.take(pa.array(np.repeat(np.arange(len(slates)), counts)))
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({**arrays, "event_at": event_at, "known_at": event_at}).cast(CANDIDATES.arrow)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int32]:
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores), dtype=np.int32)
    return ranks


def _repeat(values: list[int], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.array(values, dtype=np.int64), counts)
