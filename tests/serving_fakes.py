"""A small catalogue, users, models and stores that implement serving's ports, for tests without Redis and training."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.clock import FrozenClock
from core.errors import StoreUnavailableError
from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES
from core.settings import Settings
from core.workspace import DatasetManifest
from events.journal import Journal
from feature_repo.catalog import ALL_VIEWS
from feature_repo.columns import Columns, null_columns
from serving.bootstrap import Runtime, build_funnels
from serving.feature_log import FeatureLog
from serving.funnel.eligible import EligiblePosts
from serving.funnel.first_stage import VectorRanker
from serving.funnel.source_pool import SourcePool
from serving.funnels import ServingFunnels, fingerprint
from serving.live.assembly import go_live, live_parts
from serving.live.view import LiveSnapshot
from serving.metrics import Metrics
from serving.parts import Parts
from serving.snapshot import Catalogue, Lists, Ragged, SampleUser, Snapshot, Users
from serving.spec import FunnelSpec
from serving.spec_file import load_spec, with_overlay

AS_OF = datetime(2026, 3, 15, tzinfo=UTC)
LANGUAGES = ("de", "en", "es")
COUNTRIES = ("DE", "US", "ES")
RARE_LANGUAGE = "de"
NUM_POSTS = 600
NUM_CREATORS = 40
NUM_USERS = 30
COLD_USER = 999_999
GREEDY = {"exploration": {"temperature": 0.0, "probability": 0.0, "page_floor": 0.0}}


def make_catalogue(num_posts: int = NUM_POSTS, seed: int = 1) -> Catalogue:
    """Posts with odd ids 1, 3, 5 …; about 5 % in the rare language."""
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((num_posts, CONTENT_DIM)).astype(np.float32)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    language_codes = rng.choice(3, size=num_posts, p=[0.05, 0.65, 0.3]).astype(np.int16)
    is_recommendable = np.ones(num_posts, dtype=np.bool_)
    is_recommendable[:5] = False
    integrity = rng.uniform(0.4, 1.0, num_posts).astype(np.float32)
    integrity[5:10] = 0.1
    return Catalogue(
        post_ids=np.arange(num_posts, dtype=np.int64) * 2 + 1,
        creator_ids=rng.integers(0, NUM_CREATORS, num_posts).astype(np.int64),
        topic_ids=rng.integers(-1, 12, num_posts).astype(np.int64),
        language_codes=language_codes,
        country_codes=rng.integers(0, 3, num_posts).astype(np.int16),
        media_codes=rng.integers(0, len(MEDIA_TYPES), num_posts).astype(np.int16),
        created_at=AS_OF.timestamp() - rng.uniform(60, 20 * 86400, num_posts),
        duration_seconds=rng.uniform(5, 90, num_posts).astype(np.float32),
        integrity=integrity,
        is_recommendable=is_recommendable,
        num_impressions=rng.integers(0, 300, num_posts).astype(np.int64),
        popularity=rng.random(num_posts).astype(np.float32),
        report_rate=np.zeros(num_posts, dtype=np.float32),
        content=content,
        languages=LANGUAGES,
        countries=COUNTRIES,
        media_types=MEDIA_TYPES,
    )


def ragged(lists: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Ragged:
    """Lists as Ragged; weights fall from 1 unless given."""
    weights = weights or [[1.0 / (1 + i) for i in range(len(values))] for values in lists]
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in lists])]).astype(np.int64)
    flat = np.array([v for values in lists for v in values], dtype=np.int64)
    return Ragged(offsets, flat, np.array([w for ws in weights for w in ws], dtype=np.float32))


def make_snapshot(catalogue: Catalogue | None = None, seed: int = 2) -> Snapshot:
    """User i saw rows 20 i to 20 i + 9, hid row 100, blocked creator 3 if i is even, follows creators 7 and 8."""
    catalogue = catalogue or make_catalogue()
    rng = np.random.default_rng(seed)
    count = len(catalogue)

    def listed(mask: NDArray[np.bool_], length: int) -> list[int]:
        rows = np.flatnonzero(mask)
        return rng.permutation(rows)[:length].tolist()

    everyone = np.ones(count, dtype=np.bool_)
    lists = Lists(
        neighbours=ragged([rng.choice(count, size=20, replace=False).tolist() for _ in range(count)]),
        trending=ragged([listed(everyone, 200)]),
        trending_by_language=ragged([listed(catalogue.language_codes == code, 100) for code in range(3)]),
        popular=ragged([listed(everyone, 300)]),
        popular_by_country=ragged([listed(everyone, 200) for _ in COUNTRIES]),
        popular_by_language=ragged([listed(catalogue.language_codes == code, 200) for code in range(3)]),
    )
    users = Users(
        user_ids=np.arange(NUM_USERS, dtype=np.int64),
        language_codes=(np.arange(NUM_USERS) % 3).astype(np.int16),
        country_codes=(np.arange(NUM_USERS) % 3).astype(np.int16),
        seen=ragged(
            [list(range(20 * i, 20 * i + 10)) for i in range(NUM_USERS)], [[7200.0 + 60] * 10 for _ in range(NUM_USERS)]
        ),
        hidden=ragged([[100] for _ in range(NUM_USERS)]),
        blocked=ragged([[3] if i % 2 == 0 else [] for i in range(NUM_USERS)]),
        followed=ragged([[7, 8] for _ in range(NUM_USERS)]),
    )
    samples = tuple(SampleUser(i, str(i), COUNTRIES[i % 3], LANGUAGES[i % 3], 50 - i, (1, 2)) for i in range(6))
    return Snapshot(
        "snapshot-1", AS_OF.timestamp(), "data-1", catalogue, lists, users, samples, ("explore", "tab_1"), {1: "Food"}
    )


class FakeReader:
    """Features of known users and posts; counts its reads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.num_reads = {"user": 0, "post": 0, "creator": 0}
        self.is_down = False

    def read(self, entity: str, ids: NDArray[np.int64], views: Sequence[str]) -> Columns:
        if self.is_down:
            raise StoreUnavailableError("Redis does not answer")
        self.num_reads[entity] += 1
        names = [f"{view}__{field.name}" for view in views for field in ALL_VIEWS[view].fields]
        columns = null_columns(names, len(ids))
        if entity == "user":
            self._fill_users(columns, ids)
        elif entity == "post" and "post_profile__creator_id" in columns:
            self._fill_posts(columns, ids)
        return columns

    def _fill_users(self, columns: Columns, ids: NDArray[np.int64]) -> None:
        for place, user_id in enumerate(ids.tolist()):
            if user_id >= NUM_USERS:
                continue
            if "user_profile__registered_at" in columns:
                columns["user_profile__registered_at"][place] = int(AS_OF.timestamp()) - 86_400 * 30
            if "user_history__history_post_ids" not in columns:
                continue
            seeds = self.catalogue.post_ids[200 + 3 * user_id : 205 + 3 * user_id]
            columns["user_history__history_post_ids"][place, :5] = seeds
            columns["user_history__history_kinds"][place, :5] = [0, 1, 2, 3, 4]
            columns["user_history__history_at"][place, :5] = int(AS_OF.timestamp()) - 7200

    def _fill_posts(self, columns: Columns, ids: NDArray[np.int64]) -> None:
        rows = self.catalogue.rows_of(ids)
        columns["post_profile__creator_id"][:] = self.catalogue.creator_ids[rows]
        columns["post_profile__topic_id"][:] = self.catalogue.topic_ids[rows]
        columns["post_profile__created_at"][:] = self.catalogue.created_at[rows].astype(np.int64)


class FakeTower:
    """The same vector for everyone."""

    bundle_id = "tower-1"

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.vector = rng.standard_normal(CONTENT_DIM).astype(np.float32)

    def user_vectors(self, columns: Columns) -> NDArray[np.float32]:
        return self.vector[None, :]

    def post_vectors(self, columns: Columns) -> NDArray[np.float32]:
        return columns["post_profile__content_embedding"].astype(np.float32)


class ExactSearch:
    """All eligible posts by inner product with their content."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def search(
        self, vector_D: NDArray[np.float32], k: int, eligible: EligiblePosts
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        is_eligible_P = eligible.mask()[: len(self.catalogue)]  # a live catalogue has room behind
        scores = np.where(is_eligible_P, self.catalogue.content @ vector_D, -np.inf).astype(np.float64)
        rows = np.argsort(-scores, kind="stable")[:k]
        rows = rows[np.isfinite(scores[rows])]
        return rows, scores[rows]


class FakeModel:
    """Probabilities that only depend on the post's topic and creator, so that the best order is known."""

    bundle_id = "model-1"
    heads = HEADS

    def __init__(self) -> None:
        self.is_broken = False

    def probabilities(self, user: Columns, post: Columns, cross: Columns) -> NDArray[np.float64]:
        if self.is_broken:
            raise ValueError("columns missing: post_activity__rate_click_24h")
        click = 0.02 + 0.02 * (post["post_profile__topic_id"] + 1) + 0.0005 * post["post_profile__creator_id"]
        scale = np.linspace(1.0, 0.01, len(HEADS))
        return click[:, None] * scale[None, :]


def make_spec(**overlay: object) -> FunnelSpec:
    """The shipped spec without exploration, with an overlay."""
    return with_overlay(with_overlay(load_spec(), GREEDY), overlay)


def make_parts(snapshot: Snapshot, reader: FakeReader | None = None) -> Parts:
    """All parts, as fakes."""
    catalogue = snapshot.catalogue
    tower = FakeTower()
    return Parts(
        reader=reader or FakeReader(catalogue),
        tower=tower,
        search=ExactSearch(catalogue),
        first_stage=VectorRanker(tower, catalogue.content, np.ones(len(catalogue), dtype=np.bool_)),
        second_stage=FakeModel(),
        feature_names=frozenset(),
        versions={"retrieval": "tower-1", "first_stage": "tower-1", "second_stage": "model-1"},
    )


def make_settings(folder: Path, **fields: object) -> Settings:
    """Settings of an empty workspace with a manifest anchored at AS_OF."""
    settings = Settings(var_dir=folder, dataset="world", **fields)
    settings.workspace.root.mkdir(parents=True, exist_ok=True)
    settings.workspace.write_manifest(DatasetManifest("world", "world", "data-1", AS_OF, AS_OF, AS_OF, {}, {}))
    return settings


def make_runtime(
    folder: Path,
    spec: FunnelSpec | Sequence[FunnelSpec] | None = None,
    parts: Parts | None = None,
    *,
    is_feature_log: bool = False,
    pool: SourcePool | None = None,
    snapshot: Snapshot | None = None,
    **fields: object,
) -> Runtime:
    """A runtime of fakes over a real journal and its live view, with a real feature log if wanted.

    Deadlines count with a `pool`.
    """
    settings = make_settings(folder, **fields)
    snapshot = LiveSnapshot(snapshot or make_snapshot())
    parts = live_parts(parts or make_parts(snapshot), snapshot)
    spec = spec or make_spec()
    journal = Journal(settings.workspace.journal)
    metrics = Metrics()
    log = FeatureLog.opened(settings, metrics.feature_rows) if is_feature_log else None
    specs = {one.surface: one for one in ((spec,) if isinstance(spec, FunnelSpec) else spec)}
    funnels = ServingFunnels(
        build_funnels(specs, snapshot, parts, journal, metrics, log, pool), fingerprint(settings.workspace, None)
    )
    clock = FrozenClock(AS_OF)
    funnels.current = replace(funnels.current, live=go_live(snapshot, journal, clock, funnels.current))
    return Runtime(settings, settings.workspace, clock, journal, metrics, funnels, None, pool, log)


def without(parts: Parts, *names: str) -> Parts:
    """The parts with some missing."""
    return replace(parts, **dict.fromkeys(names))
