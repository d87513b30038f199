"""The composition root of a serving process: builds everything once and passes it down."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from core.clock import Clock
from core.logs import logger
from core.settings import Settings
from core.workspace import Workspace
from events.journal import Journal
from events.served import ServedLog
from serving.controls import JournalControls
from serving.cursor import CursorSigner, cursor_secret
from serving.explanations import Explanations
from serving.feature_log import FeatureLog
from serving.feed import Feed, Stores
from serving.funnel.feature_record import FeatureRecorder, FeatureSink
from serving.funnel.features import FunnelFeatures
from serving.funnel.input_bounds import InputBounds
from serving.funnel.ports import FeatureReader, HeavyRanker, LightRanker, Observer, SilentObserver
from serving.funnel.request import FeedRequest
from serving.funnel.reserve import Reserve
from serving.funnel.runner import Funnel
from serving.funnel.second_stage import EncodingModel, ModelRanker
from serving.funnel.source_pool import SourcePool
from serving.funnel.sources.base import Source
from serving.funnel.sources.history import HistorySource
from serving.funnel.sources.newest import FollowedSource, FreshSource
from serving.funnel.sources.ranked_lists import PopularSource, TrendingSource
from serving.funnel.sources.two_tower import TwoTowerSource
from serving.funnel.sources.uniform import RandomSource
from serving.funnels import FunnelSet, ServingFunnels, fingerprint
from serving.intake import Intake
from serving.live.assembly import follow, go_live, live_parts
from serving.live.live import Live
from serving.live.reader import LiveReader
from serving.live.view import LiveSnapshot
from serving.metrics import Metrics
from serving.parts import Parts, load_parts
from serving.precomputed import PrecomputedSlates
from serving.prefetch import Prefetcher
from serving.snapshot import Snapshot, load_snapshot
from serving.spec import FunnelSpec
from serving.spec_file import DEFAULT_SPEC, load_specs
from serving.spec_limits import CacheSpec
from serving.spec_sources import (
    AnySourceSpec,
    FollowedSpec,
    FreshSpec,
    HistorySpec,
    PopularSpec,
    RandomSpec,
    TrendingSpec,
    TwoTowerSpec,
)
from serving.tracing import TracedStages, Tracing, open_tracing
from serving.visits import Visits


@dataclass(frozen=True)
class Runtime:
    """A ready process. What a new spec, model or snapshot replaces is in `funnels`.

    `funnel_for` builds a funnel for another spec.
    """

    settings: Settings
    workspace: Workspace
    clock: Clock
    journal: Journal
    metrics: Metrics
    funnels: ServingFunnels
    spec_path: Path | None = None
    """Where the specs come from, None where they were given."""
    pool: SourcePool | None = None
    feature_log: FeatureLog | None = None
    tracing: Tracing | None = None
    on_user_gone: list[Callable[[int], None]] = field(default_factory=list)
    """Told the id of each user that is deleted, whatever snapshot serves."""
    on_new_snapshot: list[Callable[[], None]] = field(default_factory=list)
    """Told once another snapshot has taken over: what keeps the one before alive is to let it go."""

    def __post_init__(self) -> None:
        self.watch(self.funnels.current)
        self.funnels.followers += [self.watch, follow]
        self._attend(self.live)

    @property
    def snapshot(self) -> Snapshot:
        """What serving knows as of now."""
        return self.funnels.current.snapshot

    @property
    def live(self) -> Live | None:
        """What follows the journal as of now, None in a process whose catalogue does not live."""
        return self.funnels.current.live

    def catch_up(self) -> None:
        """Takes all that was acknowledged before the call into what serves. Raises StoreUnavailableError."""
        live = self.live
        while live is not None:
            live.view.catch_up()
            # A newer snapshot that took over meanwhile may have read the journal before.
            live, before = self.live, live
            if live is before:
                return

    @property
    def funnel(self) -> Funnel:
        """The funnel of the default surface as of now."""
        return self.funnels.current.default

    @property
    def spec(self) -> FunnelSpec:
        """The spec of the default surface as of now."""
        return self.funnel.spec

    @property
    def parts(self) -> Parts:
        """What the funnels are built of as of now."""
        return self.funnels.current.parts

    @property
    def observer(self) -> Observer:
        """What stages report to: the metrics, and traces where they are wanted."""
        return _observer(self.metrics, self.tracing)

    def funnel_for(
        self,
        spec: FunnelSpec,
        *,
        first_stage: LightRanker | None = None,
        second_stage: HeavyRanker | None = None,
        observer: Observer | None = None,
        features: FunnelFeatures | None = None,
        seed: int = 0,
    ) -> Funnel:
        """A funnel of another spec over the same loaded parts; given rankers take the place of the bundles.

        `features`: those of another funnel, to share what it has read.
        """
        return make_funnel(
            spec, self.snapshot, self.parts, self.journal, observer or self.observer,
            first_stage=first_stage, second_stage=second_stage, features=features, seed=seed,
        )  # fmt: skip

    def degraded(self) -> tuple[str, ...]:
        """Parts that a spec asks for and this process does without."""
        missing: dict[str, None] = {}
        for funnel in self.funnels.current.by_surface.values():
            spec, parts = funnel.spec, self.parts
            towers = [name for name, source in spec.sources.items() if isinstance(source, TwoTowerSpec)]
            missing |= dict.fromkeys(f"source:{name}" for name in towers if parts.search is None)
            if spec.first_stage is not None and parts.first_stage is None:
                missing["first_stage"] = None
            if spec.second_stage is not None and parts.second_stage is None:
                missing["second_stage"] = None
        return tuple(missing)

    def watch(self, funnels: FunnelSet) -> None:
        """Points the metrics of the caches at those of the default surface, and notes which parts are missing."""
        for kind in ("retrieval", "first_stage", "second_stage"):
            is_used = any(_uses(spec, kind) for spec in funnels.specs.values())
            has_own = kind in funnels.parts.versions and kind not in funnels.parts.stand_ins
            self.metrics.part_missing(kind, is_used and not has_own)
        self.metrics.watch_cache("post_features", funnels.default.features.post_counts)
        self.metrics.watch_cache("creator_features", funnels.default.features.creators.counts)
        self.metrics.watch_cache("eligibility", funnels.default.eligibility_counts)

    def renewed(self, specs: Mapping[str, FunnelSpec], parts: Parts, snapshot: Snapshot | None = None) -> FunnelSet:
        """Funnels for newer specs, parts or a snapshot that the parts were made for, warm and ready to take over."""
        before = self.funnels.current
        funnels = build_funnels(
            specs, snapshot or before.snapshot, parts, self.journal, self.observer, self.feature_log, self.pool, before
        )
        if isinstance(snapshot, LiveSnapshot):
            funnels = replace(funnels, live=go_live(snapshot, self.journal, self.clock, funnels))
            self._attend(funnels.live)
        self.warm_up(funnels)
        return funnels

    def _attend(self, live: Live | None) -> None:
        if live is not None:
            live.view.on_user_gone(self._user_gone)

    def _user_gone(self, user_id: int) -> None:
        for listener in self.on_user_gone:
            listener(user_id)

    def warm_up(self, funnels: FunnelSet | None = None) -> None:
        """Ranks a feed per surface in vain, so that no user pays for what is made or read on first use."""
        funnel_set = funnels or self.funnels.current
        for user in funnel_set.snapshot.sample_users[:1]:
            for funnel in funnel_set.by_surface.values():
                make_funnel(
                    funnel.spec,
                    funnel_set.snapshot,
                    funnel_set.parts,
                    self.journal,
                    SilentObserver(),
                    features=funnel.features,
                ).rank(FeedRequest(user.user_id, self.clock.now()))

    def open_feed(self, served: ServedLog, new_id: Callable[[], int]) -> Feed:
        """The paged feed over the funnels that serve."""
        spec, precompute = self.spec, self.spec.precompute
        stored = PrecomputedSlates(self.workspace.precomputed, precompute.max_age_seconds, precompute.enabled)
        visits = Visits(spec.caches.slates, monotonic)
        stores = Stores(
            visits,
            served,
            Explanations(self.workspace.explanations, spec.explanations, self.metrics.explanation_dropped),
            Reserve(stored),
            Prefetcher() if spec.paging.prefetch else None,
        )
        self.on_user_gone.append(visits.forget)
        self.on_new_snapshot.append(visits.let_go)
        return Feed(
            self.funnels,
            stores,
            CursorSigner(cursor_secret(self.settings), spec.paging.cursor_max_age_hours * 3600),
            self.clock,
            self.metrics,
            new_id,
        )

    def open_intake(self, served: ServedLog) -> Intake:
        """The door for posted events."""
        return Intake(
            self.journal,
            served,
            lambda: self.snapshot.catalogue,
            self.clock,
            self.metrics,
            default_surface(self.spec, self.snapshot),
            self.catch_up,
        )

    def close(self) -> None:
        """Closes what this process holds open and writes what it has kept."""
        if self.live is not None:
            self.live.tail.stop()
        if self.feature_log is not None:
            self.feature_log.close()
        if self.tracing is not None:
            self.tracing.close()
        self.journal.close()


def build_runtime(
    settings: Settings,
    spec: FunnelSpec | None = None,
    *,
    reader: FeatureReader | None = None,
    clock: Clock | None = None,
    feature_log: FeatureLog | None = None,
    is_patient: bool = False,
    is_live: bool = False,
) -> Runtime:
    """Everything that serving needs, loaded. Raises MissingStageError before data and snapshot are there.

    `feature_log` takes the place of the workspace's own and is closed with the runtime. A missing or damaged bundle
    does not stop it: slates name what they did without. `is_patient`: no deadline counts, for work off the request
    path. `is_live`: the catalogue follows the journal, as a server's must; without, it is the snapshot's, whose rows
    are sorted by post id.
    """
    _limit_threads(settings.num_threads)
    workspace = settings.workspace
    spec_path = None if spec is not None else settings.funnel_spec or DEFAULT_SPEC
    started_from = fingerprint(workspace, spec_path)
    specs = {spec.surface: spec} if spec is not None else load_specs(spec_path)
    snapshot = load_snapshot(workspace)
    if is_live:
        snapshot = LiveSnapshot(snapshot)
    parts = parts_for(settings, snapshot, reader)
    for part, reason in parts.problems.items():
        if any(_uses(used, _KIND_OF_PART[part]) for used in specs.values()):
            logger("serving").warning("part refused", part=part, stand_ins=parts.stand_ins, reason=reason)
    journal = Journal(workspace.journal)
    metrics = Metrics()
    feature_log = feature_log or FeatureLog.opened(settings, metrics.feature_rows)
    pool = None if is_patient else SourcePool()
    tracing = open_tracing(settings)
    clock = clock or workspace.clock(settings.clock)
    funnels = build_funnels(specs, snapshot, parts, journal, _observer(metrics, tracing), feature_log, pool)
    if isinstance(snapshot, LiveSnapshot):
        funnels = replace(funnels, live=go_live(snapshot, journal, clock, funnels))
    return Runtime(
        settings, workspace, clock, journal, metrics, ServingFunnels(funnels, started_from), spec_path, pool,
        feature_log, tracing,
    )  # fmt: skip


def _observer(metrics: Metrics, tracing: Tracing | None) -> Observer:
    return TracedStages(metrics, tracing.tracer) if tracing else metrics


def parts_for(settings: Settings, snapshot: Snapshot, reader: FeatureReader | None = None) -> Parts:
    """The parts as the workspace has them now, at the start and for every exchange."""
    stored = reader.stored if isinstance(reader, LiveReader) else reader
    parts = load_parts(settings.workspace, snapshot.catalogue, stored, settings.bundle_key)
    return live_parts(parts, snapshot) if isinstance(snapshot, LiveSnapshot) else parts


def build_funnels(
    specs: Mapping[str, FunnelSpec],
    snapshot: Snapshot,
    parts: Parts,
    journal: Journal,
    observer: Observer,
    feature_log: FeatureSink | None,
    pool: SourcePool | None,
    before: FunnelSet | None = None,
) -> FunnelSet:
    """The funnels of all surfaces. Equal feature caches are one; what is as `before` stays, with what it has read."""
    kept = before.by_surface if before is not None and before.parts is parts else {}
    shared = {_feature_caches(funnel.spec): funnel.features for funnel in kept.values()}
    funnels: dict[str, Funnel] = {}
    for surface, spec in specs.items():
        old = kept.get(surface)
        funnels[surface] = old if old is not None and old.spec == spec else make_funnel(
            spec, snapshot, parts, journal, observer,
            feature_log=feature_log, features=shared.get(_feature_caches(spec)), pool=pool,
        )  # fmt: skip
        shared[_feature_caches(spec)] = funnels[surface].features
    return FunnelSet(funnels, parts, before.live if before is not None else None)


def _feature_caches(spec: FunnelSpec) -> tuple[CacheSpec, CacheSpec]:
    return spec.caches.post_features, spec.caches.creator_features


def make_funnel(
    spec: FunnelSpec,
    snapshot: Snapshot,
    parts: Parts,
    journal: Journal | None,
    observer: Observer,
    *,
    first_stage: LightRanker | None = None,
    second_stage: HeavyRanker | None = None,
    feature_log: FeatureSink | None = None,
    features: FunnelFeatures | None = None,
    seed: int = 0,
    pool: SourcePool | None = None,
) -> Funnel:
    """A funnel over loaded parts; `feature_log` keeps what a bundle's second stage is fed.

    With a `pool` the spec's deadlines count, as they must on the request path and must not off it.
    """
    bounds = InputBounds(parts.bounds, observer.out_of_bounds)
    model = parts.second_stage
    features = features or FunnelFeatures(
        parts.reader, snapshot.catalogue, spec.caches, parts.feature_names, bounds,
        model.encoded_posts if isinstance(model, EncodingModel) else None,
    )  # fmt: skip
    versions = {kind: bundle for kind, bundle in parts.versions.items() if _uses(spec, kind)}
    recorder = FeatureRecorder(feature_log, features, spec.version, versions) if feature_log else None
    heavy = second_stage or (ModelRanker(model, features, recorder) if model else None)
    light = first_stage or parts.first_stage
    if spec.first_stage is not None and first_stage is not None:
        versions["first_stage"] = first_stage.version
    if spec.second_stage is not None and second_stage is not None:
        versions["second_stage"] = second_stage.version
    return Funnel(
        spec,
        snapshot,
        {name: _source(source, snapshot, parts) for name, source in spec.sources.items()},
        features,
        JournalControls(snapshot, journal, spec.eligibility.hide_seen_days),
        light if spec.first_stage is not None else None,
        heavy if spec.second_stage is not None else None,
        versions,
        observer,
        seed,
        pool,
    )


def default_surface(spec: FunnelSpec, snapshot: Snapshot) -> str:
    """The spec's surface, or the data's most seen one where the data has never seen the spec's."""
    if not snapshot.surfaces or spec.surface in snapshot.surfaces:
        return spec.surface
    return snapshot.surfaces[0]


_KIND_OF_PART = {
    "retrieval": "retrieval",
    "index": "retrieval",
    "first_stage": "first_stage",
    "first_stage_vectors": "first_stage",
    "second_stage": "second_stage",
}


def _uses(spec: FunnelSpec, kind: str) -> bool:
    if kind == "retrieval":
        return any(isinstance(source, TwoTowerSpec) for source in spec.sources.values())
    return (spec.first_stage if kind == "first_stage" else spec.second_stage) is not None


def _source(spec: AnySourceSpec, snapshot: Snapshot, parts: Parts) -> Source | None:
    """The source, None where a part it needs is not there."""
    match spec:
        case TwoTowerSpec():
            has_parts = parts.tower is not None and parts.search is not None
            return TwoTowerSource(spec, parts.tower, parts.search) if has_parts else None  # type: ignore[arg-type]
        case HistorySpec():
            return HistorySource(spec, snapshot.catalogue, snapshot.lists.neighbours)
        case TrendingSpec():
            return TrendingSource(spec, snapshot.lists)
        case PopularSpec():
            return PopularSource(spec, snapshot.lists)
        case FollowedSpec():
            return FollowedSource(spec, snapshot.catalogue)
        case FreshSpec():
            return FreshSource(spec, snapshot.catalogue)
        case RandomSpec():
            return RandomSource(spec)


def _limit_threads(count: int) -> None:
    """Torch and FAISS would each take every core per request thread."""
    import faiss
    import torch

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
