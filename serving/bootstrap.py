"""The composition root of a serving process: builds everything once and passes it down."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from core.clock import Clock
from core.logs import logger
from core.settings import Settings
from core.workspace import Workspace
from events.journal import Journal
from events.served import ServedLog
from serving.controls import JournalControls
from serving.cursor import CursorSigner, load_secret
from serving.feature_log import FeatureLog
from serving.feed import Feed
from serving.funnel.feature_record import FeatureRecorder, FeatureSink
from serving.funnel.features import FunnelFeatures
from serving.funnel.input_bounds import InputBounds
from serving.funnel.ports import FeatureReader, HeavyRanker, LightRanker, Observer
from serving.funnel.runner import Funnel
from serving.funnel.second_stage import ModelRanker
from serving.funnel.sources.base import Source
from serving.funnel.sources.history import HistorySource
from serving.funnel.sources.newest import FollowedSource, FreshSource
from serving.funnel.sources.ranked_lists import PopularSource, TrendingSource
from serving.funnel.sources.two_tower import TwoTowerSource
from serving.funnel.sources.uniform import RandomSource
from serving.intake import Intake
from serving.metrics import Metrics
from serving.parts import Parts, load_parts
from serving.snapshot import Snapshot, load_snapshot
from serving.spec import (
    AnySourceSpec,
    FollowedSpec,
    FreshSpec,
    FunnelSpec,
    HistorySpec,
    PopularSpec,
    RandomSpec,
    TrendingSpec,
    TwoTowerSpec,
)
from serving.spec_file import load_spec
from serving.tracing import TracedStages, Tracing, open_tracing
from serving.visits import Visits


@dataclass(frozen=True)
class Runtime:
    """A ready process. `funnel` answers the default spec; `funnel_for` builds one for another."""

    settings: Settings
    workspace: Workspace
    clock: Clock
    spec: FunnelSpec
    snapshot: Snapshot
    parts: Parts
    journal: Journal
    metrics: Metrics
    funnel: Funnel
    feature_log: FeatureLog | None = None
    tracing: Tracing | None = None

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
            spec, self.snapshot, self.parts, self.journal, observer or self.metrics,
            first_stage=first_stage, second_stage=second_stage, features=features, seed=seed,
        )  # fmt: skip

    def degraded(self) -> tuple[str, ...]:
        """Parts that the spec asks for and this process does without."""
        wanted = {
            "two_tower": any(isinstance(s, TwoTowerSpec) for s in self.spec.sources.values())
            and self.parts.search is None,
            "first_stage": self.spec.first_stage is not None and self.parts.first_stage is None,
            "second_stage": self.spec.second_stage is not None and self.parts.second_stage is None,
        }
        return tuple(part for part, is_missing in wanted.items() if is_missing)

    def open_feed(self, served: ServedLog, new_id: Callable[[], int]) -> Feed:
        """The paged feed over `funnel`."""
        return Feed(
            self.funnel,
            JournalControls(self.snapshot, self.journal, self.spec.eligibility.hide_seen_days),
            Visits(self.spec.caches.slates, monotonic),
            CursorSigner(load_secret(self.workspace.cursor_secret)),
            served,
            self.clock,
            self.metrics,
            new_id,
        )

    def open_intake(self, served: ServedLog) -> Intake:
        """The door for posted events."""
        return Intake(
            self.journal,
            served,
            self.snapshot.catalogue,
            self.clock,
            self.metrics,
            default_surface(self.spec, self.snapshot),
        )

    def close(self) -> None:
        """Closes what this process holds open and writes what it has kept."""
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
) -> Runtime:
    """Everything that serving needs, loaded. Raises MissingStageError before data and snapshot are there.

    `feature_log` takes the place of the workspace's own and is closed with the runtime. A missing or damaged bundle
    does not stop it: slates name what they did without.
    """
    _limit_threads(settings.num_threads)
    workspace = settings.workspace
    spec = spec or load_spec(settings.funnel_spec)
    snapshot = load_snapshot(workspace)
    parts = load_parts(workspace, snapshot.catalogue, reader, settings.bundle_key)
    for part, reason in parts.problems.items():
        if _uses(spec, _KIND_OF_PART[part]):
            logger("serving").warning("part refused", part=part, stand_ins=parts.stand_ins, reason=reason)
    journal = Journal(workspace.journal)
    metrics = Metrics()
    for kind in ("retrieval", "first_stage", "second_stage"):
        metrics.part_missing(kind, _uses(spec, kind) and (kind not in parts.versions or kind in parts.stand_ins))
    feature_log = feature_log or FeatureLog.opened(settings, metrics.feature_rows)
    tracing = open_tracing(settings)
    observer = TracedStages(metrics, tracing.tracer) if tracing else metrics
    funnel = make_funnel(spec, snapshot, parts, journal, observer, feature_log=feature_log)
    metrics.watch_cache("post_features", funnel.features.posts)
    metrics.watch_cache("creator_features", funnel.features.creators)
    return Runtime(
        settings, workspace, clock or workspace.clock(settings.clock), spec, snapshot, parts, journal, metrics, funnel,
        feature_log, tracing,
    )  # fmt: skip


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
) -> Funnel:
    """A funnel over loaded parts; `feature_log` keeps what a bundle's second stage is fed."""
    bounds = InputBounds(parts.bounds, observer.out_of_bounds)
    features = features or FunnelFeatures(parts.reader, snapshot.catalogue, spec.caches, parts.feature_names, bounds)
    versions = {kind: bundle for kind, bundle in parts.versions.items() if _uses(spec, kind)}
    recorder = FeatureRecorder(feature_log, features, spec.version, versions) if feature_log else None
    heavy = second_stage or (ModelRanker(parts.second_stage, features, recorder) if parts.second_stage else None)
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
