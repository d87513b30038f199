"""The feed without HTTP: from a request and a cursor to one page, logged as served."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from core.clock import Clock
from core.errors import StoreUnavailableError
from core.ids import MAX_ID
from events.served import ServedLog, ServedPage
from serving.cursor import Cursor, CursorSigner
from serving.explain import Page, PagePost, explained
from serving.explanations import Explanations
from serving.funnel.request import FeedRequest, Slate
from serving.funnel.reserve import Reserve
from serving.funnel.runner import Funnel
from serving.funnels import ServingFunnels
from serving.metrics import Metrics
from serving.prefetch import Prefetcher
from serving.snapshot import UNKNOWN
from serving.visits import Visit, Visits

RANKING = frozenset({"features", "second_stage"})
"""Parts without which a precomputed slate is better than what the funnel can still rank."""


@dataclass(frozen=True)
class Stores:
    """Where a feed keeps and finds what is not ranked for the request."""

    visits: Visits
    served: ServedLog
    explanations: Explanations
    reserve: Reserve
    prefetcher: Prefetcher | None = None


class Feed:
    """Cuts pages from visits and starts the funnel where it is needed."""

    def __init__(
        self,
        funnels: ServingFunnels,
        stores: Stores,
        signer: CursorSigner,
        clock: Clock,
        metrics: Metrics,
        new_id: Callable[[], int],
    ) -> None:
        self._funnels = funnels
        self._stores = stores
        self._visits = stores.visits
        self._served = stores.served
        self._signer = signer
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id

    def page(self, wish: FeedRequest, cursor: str | None = None, *, may_rank: bool = True) -> Page:
        """The next page. `wish.at`, its exclusions and an id it does not bring are set here. Raises CursorError.

        Without `may_rank` the funnel does not run: what is not held already comes from the reserve.
        """
        request = replace(wish, at=self._clock.now(), request_id=wish.request_id or self._id())
        funnel = self._funnels.current.of(request.surface)
        visit, offset = self._visit(request, cursor)
        with visit.lock:
            entries, end, degraded = self._cut(visit, offset, request, funnel, may_rank)
            is_over = visit.is_exhausted and end >= visit.end
            self._keep_current(visit, funnel)
        posts = tuple(PagePost(slate.post(place, position), slate, place) for position, slate, place in entries)
        next_cursor = None
        if posts and not is_over:
            at = Cursor(visit.visit_id, visit.list_id, request.user_id, end)
            next_cursor = self._signer.write(at, request.surface)
            if may_rank:
                self._prefetch(visit, request, end, funnel)
        # A page from before an exchange of funnels names those that ranked it.
        spec_version, models = _versions(entries[0][1]) if entries else (funnel.spec.version, funnel.model_versions)
        page = Page(
            request.request_id, request.user_id, request.surface, spec_version, dict(models), request.at, posts,
            next_cursor, degraded, funnel.snapshot,
        )  # fmt: skip
        self._log(page, visit, request, funnel)
        self._stores.explanations.keep(page.request_id, partial(explained, page))
        return page

    def close(self) -> None:
        """Ends the work in the background; explanations that wait are written."""
        if self._stores.prefetcher is not None:
            self._stores.prefetcher.close()
        self._stores.explanations.close()

    @property
    def visits(self) -> Visits:
        """Ranked lists that users scroll through."""
        return self._stores.visits

    @property
    def explanations(self) -> Explanations:
        """Why what was served was served."""
        return self._stores.explanations

    def _visit(self, request: FeedRequest, cursor: str | None) -> tuple[Visit, int]:
        if cursor is None:
            return self._kept(
                Visit(self._id(), self._id(), request.user_id, request.surface, self._visits.started())
            ), 0
        at = self._signer.read(cursor, request.user_id, request.surface)
        known = self._visits.find(at.list_id, request.user_id)
        if known is not None and at.offset >= known.first_offset:
            return known, at.offset
        # Another process cut the page before, or its list was dropped: go on behind what the visit has shown.
        visit = Visit(
            at.visit_id, self._id(), request.user_id, request.surface, self._visits.started(),
            at.offset, self._shown(at.visit_id, request.user_id),
        )  # fmt: skip
        return self._kept(visit), at.offset

    def _keep_current(self, visit: Visit, funnel: Funnel) -> None:
        """Has a visit that was ranked while a newer snapshot took over keep nothing of the one before."""
        if self._funnels.current.snapshot is not funnel.snapshot:
            visit.let_go()

    def _kept(self, visit: Visit) -> Visit:
        self._visits.keep(visit)
        return visit

    def _id(self) -> int:
        return self._new_id() & MAX_ID

    def _shown(self, visit_id: int, user_id: int) -> tuple[int, ...]:
        try:
            return self._served.posts_of_visit(visit_id, user_id)
        except StoreUnavailableError:
            return ()

    def _cut(
        self, visit: Visit, offset: int, request: FeedRequest, funnel: Funnel, may_rank: bool
    ) -> tuple[list[tuple[int, Slate, int]], int, tuple[str, ...]]:
        """Position, slate and place of each post of the page, where the next page starts, and what was missing."""
        visit.serve_from(funnel.snapshot)
        is_barred: Callable[[Slate, int], bool] | None = None
        entries: list[tuple[int, Slate, int]] = []
        at, degraded, ranked = offset, dict[str, None](), list[Slate]()
        while len(entries) < request.limit:
            if at >= visit.end:
                if visit.is_exhausted:
                    break
                if visit.num_behind:
                    visit.complete()
                    continue
                # A page that needs two rankings gives each its own id, and with it its own draws.
                ranking = replace(request, request_id=self._id()) if ranked else request
                ranked.append(self._ranked(visit, ranking, funnel, may_rank))
                visit.add(ranked[-1])
                continue
            slate, place = visit.entries[at - visit.first_offset]
            if entries and slate is not entries[0][1] and _versions(slate) != _versions(entries[0][1]):
                break  # a page is of one spec and one set of models; the next page begins with the new ones
            # What was ranked just now keeps to the user's wishes.
            if not any(slate is fresh for fresh in ranked):
                is_barred = is_barred or self._barred(request, funnel)
                if is_barred(slate, place):
                    at += 1
                    continue
            entries.append((at, slate, place))
            degraded |= dict.fromkeys(slate.degraded)
            at += 1
        self._metrics.cache("slates", not ranked)
        return entries, at, tuple(degraded)

    def _ranked(self, visit: Visit, request: FeedRequest, funnel: Funnel, may_rank: bool) -> Slate:
        window = funnel.spec.rerank.creator_window
        whole = replace(
            request,
            session_id=visit.visit_id,
            exclude_post_ids=visit.held_post_ids(),
            previous_creator_ids=visit.last_creator_ids(window),
            first_position=visit.end,
        )
        if not may_rank:
            return self._stores.reserve.slate(funnel, whole)
        slate = funnel.rank(whole, first=request.limit)
        if RANKING & set(slate.degraded):
            stored = self._stores.reserve.precomputed(funnel, whole)
            if stored is not None:
                return replace(stored, degraded=tuple(dict.fromkeys((*slate.degraded, *stored.degraded))))
        return slate

    def _prefetch(self, visit: Visit, request: FeedRequest, end: int, funnel: Funnel) -> None:
        """Ranks on in the background where the next page is not held in full."""
        prefetcher = self._stores.prefetcher
        if prefetcher is None or not _needs_more(visit, end, request.limit):
            return

        def rank_on() -> None:
            with visit.lock:
                if _needs_more(visit, end, request.limit):
                    visit.serve_from(funnel.snapshot)
                    visit.complete()
                    later = replace(request, at=self._clock.now(), request_id=self._id())
                    visit.add(self._ranked(visit, later, funnel, True))
                    self._keep_current(visit, funnel)

        self._metrics.prefetched(prefetcher.submit(rank_on))

    def _barred(self, request: FeedRequest, funnel: Funnel) -> Callable[[Slate, int], bool]:
        """Whether a post is gone, hidden, muted or of a blocked creator by now: it leaves pages ranked before."""
        catalogue, user_row = funnel.snapshot.catalogue, funnel.snapshot.users.row_of(request.user_id)

        def is_gone(row: int) -> bool:
            return row == UNKNOWN or not catalogue.is_recommendable[row]

        try:
            controls = funnel.controls.read(request.user_id, user_row, request.at)
        except StoreUnavailableError:
            return lambda slate, place: is_gone(int(slate.candidates.rows[place]))
        hidden, blocked = frozenset(controls.hidden_rows.tolist()), controls.blocked_creator_ids
        muted = controls.muted_topic_ids if funnel.spec.eligibility.hide_muted_topics else frozenset()

        def is_barred(slate: Slate, place: int) -> bool:
            row = int(slate.candidates.rows[place])
            if is_gone(row) or row in hidden or int(slate.creator_ids[place]) in blocked:
                return True
            return bool(muted) and int(catalogue.topic_ids[row]) in muted

        return is_barred

    def _log(self, page: Page, visit: Visit, request: FeedRequest, funnel: Funnel) -> None:
        posts = [p.post for p in page.posts]
        # The words that the models were fed, not the client's: training reads the request's words from here.
        country, language = funnel.words_of(request)
        record = ServedPage(
            page.request_id, visit.visit_id, page.user_id, page.surface, country, language, request.device,
            request.at, page.spec_version, model_versions_text(page.model_versions), page.degraded,
            tuple(p.position for p in posts), tuple(p.post_id for p in posts), tuple(p.propensity for p in posts),
            tuple(p.ranked_at for p in page.posts), tuple(p.sources for p in posts),
        )  # fmt: skip
        try:
            self._served.append(record)
        except StoreUnavailableError:
            self._metrics.degraded("served_log")


def _needs_more(visit: Visit, end: int, limit: int) -> bool:
    """Whether a page from `end` on has to wait for a ranking."""
    return not visit.is_exhausted and visit.end + visit.num_behind - end < limit


def _versions(slate: Slate) -> tuple[str, Mapping[str, str]]:
    return slate.spec_version, slate.model_versions


def model_versions_text(versions: dict[str, str]) -> str:
    """Versions as the impressions table keeps them: comma-separated kind=bundle id."""
    return ",".join(f"{kind}={bundle}" for kind, bundle in sorted(versions.items()))
