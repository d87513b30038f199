"""The funnel: runs the stages of one spec for one request and reports what each did.

A stage that cannot work is skipped and named in `degraded`; the order of the stage before it stands. A
slate is short only when the catalogue has no more eligible posts.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, DeadlineError, FeatureStoreError, StoreUnavailableError, VitrineError
from serving.funnel.budget import Budget
from serving.funnel.candidates import Candidates, best_first
from serving.funnel.eligibility import Eligibility
from serving.funnel.eligible import nothing_eligible
from serving.funnel.features import FunnelFeatures, request_columns
from serving.funnel.ports import ControlsReader, HeavyRanker, LightRanker, Observer
from serving.funnel.request import FeedRequest, Rest, Slate, StageReport
from serving.funnel.rerank import Rerank, Reranked
from serving.funnel.retrieval import Retrieval
from serving.funnel.row_cache import CacheCounts
from serving.funnel.source_pool import SourcePool
from serving.funnel.sources.base import Source, first_eligible
from serving.funnel.state import Controls, RequestState
from serving.funnel.value import values, weight_vector
from serving.snapshot import UNKNOWN, Catalogue, Snapshot
from serving.spec import FunnelSpec

FEATURE_DELAY_SECONDS = 2 * 3600.0
"""An hour to close, the publish lag, and an hour's slack."""


class Funnel:
    """Serves slates. Safe to share between threads."""

    def __init__(
        self,
        spec: FunnelSpec,
        snapshot: Snapshot,
        sources: Mapping[str, Source | None],
        features: FunnelFeatures,
        controls: ControlsReader,
        first_stage: LightRanker | None,
        second_stage: HeavyRanker | None,
        model_versions: Mapping[str, str],
        observer: Observer,
        seed: int = 0,
        pool: SourcePool | None = None,
    ) -> None:
        """With a `pool` deadlines count; without one everything takes the time it takes."""
        self.spec = spec
        self.snapshot = snapshot
        self.features = features
        self.model_versions = dict(model_versions)
        self._version = spec.version
        self._retrieval = Retrieval(spec, sources, pool)
        self._deadlines = spec.deadlines if pool is not None else None
        self._eligibility = Eligibility(spec.eligibility, snapshot.catalogue, spec.caches.eligibility)
        self._rerank = Rerank(spec, snapshot.catalogue)
        self.controls = controls
        self._first_stage = first_stage
        self._second_stage = second_stage
        self._observer = observer
        self._seed = seed
        self._heads = second_stage.heads if second_stage else ()
        self._weights = weight_vector(self._heads, spec.value_model.weights)

    @property
    def eligibility_counts(self) -> CacheCounts:
        """Lookups in the cache of what depends on language, country and hour."""
        return self._eligibility.counts

    def serve(self, request: FeedRequest) -> Slate:
        """The first `request.limit` posts of the ranked slate."""
        return self.rank(request).head(request.limit)

    def rank(self, request: FeedRequest, first: int | None = None) -> Slate:
        """The whole ranked slate, from which pages are cut, or its `first` posts; `Slate.whole` goes on behind them."""
        state = self._open(request)
        seconds = state.budget.seconds()
        notes = (*state.notes, *state.budget.overrun("user", seconds))
        reports = [StageReport("user", 1, 1, seconds, notes=notes)]
        retrieved = self._retrieval.run(state)
        reports += retrieved.reports
        candidates = self._fill_up(state, retrieved.candidates, reports)
        candidates, scores = self._score(state, candidates, reports)
        reranked = self._rerank.run(state, candidates, scores, first)
        late = state.budget.overrun("rerank", reranked.report.seconds)
        report = replace(reranked.report, notes=(*reranked.report.notes, *late))
        catalogue, rows = self.snapshot.catalogue, reranked.candidates.rows
        slate = Slate(
            request_id=request.request_id,
            user_id=request.user_id,
            surface=request.surface,
            served_at=request.at,
            spec_version=self._version,
            model_versions=self.model_versions,
            candidates=reranked.candidates,
            post_ids=catalogue.post_ids[rows],
            creator_ids=catalogue.creator_ids[rows],
            scores=reranked.scores,
            propensities=reranked.propensities,
            rules=reranked.rules,
            source_names=self._retrieval.names,
            heads=self._heads,
            weights=tuple(self._weights.tolist()),
            degraded=tuple(state.degraded),
            stages=(*reports, report),
        )
        for made in slate.stages:
            self._observer.stage(made)
        for part in state.degraded:
            self._observer.degraded(part)
        # What the rest needs holds no funnel, whose models a newer one may replace while the visit goes on.
        if reranked.rest is None:
            return slate
        num_behind = report.num_out - len(slate)
        return replace(slate, rest=Rest(num_behind, partial(_whole, slate, reranked.rest, catalogue)))

    def state_without_features(self, request: FeedRequest) -> RequestState:
        """What the user may see right now, for slates that nothing ranks."""
        return self._open(request, is_ranked=False)

    def _open(self, request: FeedRequest, is_ranked: bool = True) -> RequestState:
        """The state of a new request: user features, controls and eligibility."""
        catalogue, users = self.snapshot.catalogue, self.snapshot.users
        at_seconds = request.at.timestamp()
        user_row = users.row_of(request.user_id)
        language_code, country_code = self._place(request, user_row)
        none = np.empty(0, dtype=np.int64)
        state = RequestState(
            request, at_seconds, self.snapshot, user_row, language_code, country_code,
            Controls(none, none), None, *nothing_eligible(),
            np.random.default_rng([self._seed, request.request_id]), budget=Budget(self._deadlines),
        )  # fmt: skip
        try:
            state.controls = self.controls.read(request.user_id, user_row, request.at)
        except StoreUnavailableError:
            state.degrade("journal")
        if is_ranked:
            state.user = self._user_columns(state)
        excluded = catalogue.rows_of(np.array(request.exclude_post_ids, dtype=np.int64))
        verdict = self._eligibility.judge(
            language_code, country_code, state.controls, excluded[excluded != UNKNOWN], at_seconds
        )
        state.eligibility, state.eligible = verdict.codes, verdict.eligible
        state.notes += [f"{preference} preference yielded: too few posts" for preference in verdict.yielded]
        return state

    def _place(self, request: FeedRequest, user_row: int) -> tuple[int, int]:
        """Codes of the language and country that count: the request's, else the user's."""
        catalogue, users = self.snapshot.catalogue, self.snapshot.users
        language, country = catalogue.language_code(request.language), catalogue.country_code(request.country)
        if user_row != UNKNOWN:
            language = language if request.language else int(users.language_codes[user_row])
            country = country if request.country else int(users.country_codes[user_row])
        return language, country

    def words_of(self, request: FeedRequest) -> tuple[str | None, str | None]:
        """Country and language that count for the request: its own, else the user's, None where nobody knows."""
        catalogue = self.snapshot.catalogue
        language_code, country_code = self._place(request, self.snapshot.users.row_of(request.user_id))
        country = request.country or _name(catalogue.countries, country_code)
        return country, request.language or _name(catalogue.languages, language_code)

    def _user_columns(self, state: RequestState) -> dict[str, NDArray[np.generic]] | None:
        request = state.request
        country, language = self.words_of(request)
        try:
            columns = self.features.user_columns(request.user_id)
        except (StoreUnavailableError, FeatureStoreError):
            state.degrade("features")
            return None
        if self._should_have_features(state.user_row) and int(columns["user_profile__registered_at"][0]) < 0:
            # The store answers but lost or never got this user: null features rank, and the slate says so.
            state.degrade("user_features")
        return columns | request_columns(request, country, language)

    def _should_have_features(self, user_row: int) -> bool:
        """Whether the user was active so long before the snapshot that hourly features must know them."""
        ages = self.snapshot.users.seen.weights_of(user_row)
        return len(ages) > 0 and float(ages.max()) > FEATURE_DELAY_SECONDS

    def _fill_up(self, state: RequestState, candidates: Candidates, reports: list[StageReport]) -> Candidates:
        """Candidates made up to one slate with the most popular eligible posts that no source brought."""
        wanted = min(self.spec.rerank.slate_size, self.spec.blend.max_candidates)
        if len(candidates) >= wanted:
            return candidates
        began = perf_counter()
        is_free = state.eligibility == 0
        is_free[candidates.rows] = False
        popular = self.snapshot.catalogue.by_popularity
        free = popular[is_free[popular]]
        extra = first_eligible(free, np.broadcast_to(0.0, len(free)), state, wanted - len(candidates)).rows
        report = StageReport("fill_up", len(candidates), len(candidates) + len(extra), perf_counter() - began)
        reports.append(report)
        blended = candidates.scores.get("blend", np.empty(0))
        return Candidates(
            np.concatenate([candidates.rows, extra]),
            np.concatenate([candidates.source_bits, np.zeros(len(extra), dtype=np.uint32)]),
            {"blend": np.concatenate([blended, -1.0 - np.arange(len(extra))])},
        )

    def _score(
        self, state: RequestState, candidates: Candidates, reports: list[StageReport]
    ) -> tuple[Candidates, NDArray[np.float64]]:
        """The candidates that stay and their final scores before rerank."""
        if state.user is None and (self.spec.first_stage or self.spec.second_stage):
            # Fallback: nothing personal to rank with, so the stored popularity decides.
            candidates = self._rerank.with_pins(state, candidates)
            popularity = self.snapshot.catalogue.popularity[candidates.rows].astype(np.float64)
            reports.append(StageReport("fallback", len(candidates), len(candidates), 0.0))
            return candidates.with_score("popularity", popularity), popularity
        candidates = self._rerank.with_pins(state, self._run_first_stage(state, candidates, reports))
        ranked = self._run_second_stage(state, candidates, reports)
        if ranked is not None:
            return ranked
        stage = "first_stage" if "first_stage" in candidates.scores else "blend"
        return candidates, candidates.scores[stage]

    def _run_first_stage(self, state: RequestState, candidates: Candidates, reports: list[StageReport]) -> Candidates:
        spec = self.spec.first_stage
        if spec is None or len(candidates) == 0:
            return candidates
        began, notes = perf_counter(), tuple[str, ...]()
        order = np.arange(len(candidates))
        try:
            if self._first_stage is None:
                raise FeatureStoreError("no first-stage bundle is loaded")
            _require_time(state, "first_stage")
            scores = _numbers(self._first_stage.scores(state, candidates.rows))
            candidates = candidates.with_score("first_stage", scores)
            order = best_first(candidates.scores["first_stage"])
        except VitrineError as error:
            state.degrade("first_stage")
            notes = (f"kept the blended order: {error}",)
        kept = candidates.take(order[: spec.keep])
        removed = {"below_cut": len(candidates) - len(kept)} if len(kept) < len(candidates) else {}
        seconds = perf_counter() - began
        notes += state.budget.overrun("first_stage", seconds)
        reports.append(StageReport("first_stage", len(candidates), len(kept), seconds, removed, notes))
        return kept

    def _run_second_stage(
        self, state: RequestState, candidates: Candidates, reports: list[StageReport]
    ) -> tuple[Candidates, NDArray[np.float64]] | None:
        spec = self.spec.second_stage
        if spec is None:
            return None
        began = perf_counter()
        kept = candidates.take(np.arange(min(spec.max_candidates, len(candidates))))
        # Its time grows with the candidates, so with less of it left fewer of them are scored.
        num_scored = min(len(kept), int(np.ceil(spec.max_candidates * state.budget.share("second_stage"))))
        try:
            if self._second_stage is None:
                raise FeatureStoreError("no second-stage bundle is loaded")
            _require_time(state, "second_stage")
            probabilities = self._second_stage.probabilities(state, kept.rows[:num_scored])
            _numbers(values(probabilities, self._weights))
        except VitrineError as error:
            state.degrade("second_stage")
            reports.append(
                StageReport(
                    "second_stage", len(candidates), len(candidates), perf_counter() - began, notes=(str(error),)
                )
            )
            return None
        notes, num_left = tuple[str, ...](), len(kept) - num_scored
        if num_left:
            state.degrade("second_stage_shortened")
            notes = (f"scored {num_scored} of {len(kept)} for want of time",)
            probabilities = np.concatenate([probabilities, np.full((num_left, len(self._heads)), np.nan)])
        value = values(probabilities, self._weights)
        scored = Candidates(kept.rows, kept.source_bits, {**kept.scores, "value": value}, probabilities)
        removed = {"no_room": len(candidates) - len(kept)} if len(kept) < len(candidates) else {}
        seconds = perf_counter() - began
        notes += state.budget.overrun("second_stage", seconds)
        reports.append(StageReport("second_stage", len(candidates), len(kept), seconds, removed, notes))
        return scored, _behind_the_scored(value, num_scored)


def _whole(first: Slate, rest: Callable[[], Reranked], catalogue: Catalogue) -> Slate:
    """The whole slate that `first` heads."""
    reranked = rest()
    rows = reranked.candidates.rows
    return replace(
        first,
        candidates=reranked.candidates,
        post_ids=catalogue.post_ids[rows],
        creator_ids=catalogue.creator_ids[rows],
        scores=reranked.scores,
        propensities=reranked.propensities,
        rules=reranked.rules,
        stages=(*first.stages[:-1], reranked.report),
    )


def _behind_the_scored(value: NDArray[np.float64], num_scored: int) -> NDArray[np.float64]:
    """Scores of which those from `num_scored` on keep their order below every other."""
    num_left = len(value) - num_scored
    if num_left == 0:
        return value
    finite = value[np.isfinite(value)]
    lowest = float(finite.min()) if len(finite) else 0.0
    return np.concatenate([value[:num_scored], lowest - 1e-6 * (1 + np.arange(num_left))])


def _numbers(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores. Raises BundleError where one is no finite number: what made it cannot be trusted with the others."""
    num_bad = len(scores) - int(np.count_nonzero(np.isfinite(scores)))
    if num_bad:
        raise BundleError(f"{num_bad} of {len(scores)} scores are no finite numbers")
    return scores


def _require_time(state: RequestState, stage: str) -> None:
    if state.budget.share(stage) == 0:
        raise DeadlineError("no time is left for it")


def _name(vocabulary: tuple[str, ...], code: int) -> str | None:
    return vocabulary[code] if code != UNKNOWN else None
