"""Draws wide candidate sets for sampled requests and ranks them in full: what the first stage learns from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import ConfigError, MissingStageError, StoreUnavailableError
from core.schema import CANDIDATES
from core.settings import Settings
from events.log import replace_all
from serving.bootstrap import Runtime, build_runtime
from serving.draw_requests import sample_requests
from serving.funnel.features import FunnelFeatures
from serving.funnel.request import FeedRequest, Slate
from serving.funnel.runner import Funnel
from serving.snapshot import Snapshot
from serving.spec import FunnelSpec
from serving.spec_file import load_overlay, load_spec, with_overlay

NUM_SIZES = 4
_BATCH = 10_000

Progress = Callable[[Iterable[int], int], Iterable[int]]


@dataclass(frozen=True)
class DrawPlan:
    """How many requests to rank, and how many candidates of each."""

    num_requests: int = 240
    """From which the first stage learns; their candidates go from `fewest` to `most` in equal ratios."""
    num_tests: int = 80
    """Of held-out users on the test days, half with `fewest` candidates and half with `most`."""
    fewest: int = 1_000
    most: int = 5_000

    def __post_init__(self) -> None:
        if not 0 < self.fewest <= self.most:
            raise ConfigError(
                f"candidates per request go from {self.fewest} to {self.most}; expected 0 < fewest <= most"
            )

    def sizes(self, num_requests: int, num_tests: int) -> list[int]:
        """Candidates of each request, those that teach first."""
        taught = np.geomspace(self.fewest, self.most, NUM_SIZES).round().astype(int).tolist()
        tested = [self.fewest, self.most]
        return [taught[i % len(taught)] for i in range(num_requests)] + [tested[i % 2] for i in range(num_tests)]


@dataclass(frozen=True)
class DrawReport:
    """What was drawn, and how long reading features and ranking took, in seconds."""

    num_requests: int
    num_tests: int
    num_rows: int
    warm_seconds: float
    rank_seconds: float


def draw(
    settings: Settings,
    plan: DrawPlan,
    seed: int,
    progress: Progress = lambda steps, total: steps,
    runtime: Runtime | None = None,
) -> DrawReport:
    """Replaces the table `candidates`. Every request is ranked as of the platform's now, on features of now.

    Raises StoreUnavailableError without the online store and MissingStageError without models: rows ranked
    by a fallback would teach the first stage the fallback.
    """
    spec = load_spec(settings.funnel_spec)
    runtime = runtime or build_runtime(settings, draw_spec(spec, plan.most))
    if runtime.parts.second_stage is None:
        raise MissingStageError("second_stage bundle", settings.workspace.bundles, "python -m training second-stage")
    at = runtime.clock.now()
    anchor_at = settings.workspace.manifest().anchor_at
    if anchor_at is not None and settings.clock == "auto":
        at = anchor_at  # the same rows whenever and however slowly this runs
    rng = np.random.default_rng(seed)
    taught = sample_requests(settings.workspace, runtime.snapshot, plan.num_requests, at, rng, "train")
    tested = sample_requests(settings.workspace, runtime.snapshot, plan.num_tests, at, rng, "test")
    requests, sizes = [*taught, *tested], plan.sizes(len(taught), len(tested))
    began = perf_counter()
    features = runtime.funnel_for(draw_spec(spec, plan.most)).features
    funnels = {size: runtime.funnel_for(draw_spec(spec, size), features=features) for size in set(sizes)}
    _warm(features, runtime.snapshot, requests, at)
    warm_seconds, began = perf_counter() - began, perf_counter()
    slates = [_ranked(funnels[sizes[place]], requests[place]) for place in progress(range(len(sizes)), len(sizes))]
    rank_seconds = perf_counter() - began
    rows = _table([slate for slate in slates if len(slate)])
    replace_all(settings.workspace.log, CANDIDATES.name, rows)
    return DrawReport(len(taught), len(tested), rows.num_rows, warm_seconds, rank_seconds)


def _ranked(funnel: Funnel, request: FeedRequest) -> Slate:
    slate = funnel.rank(request)
    if slate.degraded:
        raise StoreUnavailableError(
            f"request {request.request_id} could not be ranked in full (without {', '.join(slate.degraded)}); train "
            "retrieval and second stage, then run `python -m feature_repo materialize`"
        )
    return slate


def draw_spec(spec: FunnelSpec, num_candidates: int) -> FunnelSpec:
    """The spec opened wide: `num_candidates` per request, all ranked by the second stage, no cut."""
    wide = with_overlay(spec, load_overlay("draw_candidates"))
    sizes = {
        # Retrieval's own next best rather than popular or random posts: they are the hard ones to tell apart.
        "sources": {"two_tower": {"quota": num_candidates}},
        "blend": {"max_candidates": num_candidates},
        "second_stage": {"max_candidates": num_candidates},
        # The rank that is learnt is the value model's; rules would cost time and move posts.
        "rerank": {
            "slate_size": num_candidates,
            "creator_window": 0,
            "diversity": 0.0,
            "exposure_floor": None,
            "source_slots!": {},
            "pins!": {},
        },
        "exploration": {"probability": 0.0, "temperature": 0.0, "page_floor": 0.0},
    }
    return with_overlay(wide, sizes)


def _warm(features: FunnelFeatures, snapshot: Snapshot, requests: list[FeedRequest], at: datetime) -> None:
    """Reads the features of all users and of all recommendable posts in bulk."""
    users = np.unique(np.array([request.user_id for request in requests], dtype=np.int64))
    if len(users):
        features.preload_users(users)
    rows = np.flatnonzero(snapshot.catalogue.is_recommendable)
    for start in range(0, len(rows), _BATCH):
        features.warm(rows[start : start + _BATCH], at.timestamp())


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
        "sources": pa.concat_arrays([_sources(slate) for slate in slates]),
        "score": np.concatenate(values).astype(np.float32),
        "rank": np.concatenate([_ranks(value) for value in values]),
        "num_candidates": _repeat(counts.tolist(), counts).astype(np.int32),
    }
    instants = pa.array([slate.served_at for slate in slates], CANDIDATES.arrow.field("event_at").type)
    event_at = instants.take(pa.array(np.repeat(np.arange(len(slates)), counts)))
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({**arrays, "event_at": event_at, "known_at": event_at}).cast(CANDIDATES.arrow)


def _sources(slate: Slate) -> pa.Array:
    """Names of the sources that brought each post; few combinations occur."""
    _, first, place = np.unique(slate.candidates.source_bits, return_index=True, return_inverse=True)
    names = pa.array([slate.sources_of(i) for i in first.tolist()], pa.list_(pa.string()))
    return names.take(pa.array(place))


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int32]:
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores), dtype=np.int32)
    return ranks


def _repeat(values: list[int], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.array(values, dtype=np.int64), counts)
