"""The feed without HTTP: from a request and a cursor to one page, logged as served."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from core.clock import Clock
from core.errors import StoreUnavailableError
from core.ids import MAX_ID
from events.served import ServedLog, ServedPage
from serving.cursor import Cursor, CursorSigner
from serving.funnel.ports import ControlsReader
from serving.funnel.request import Explanation, FeedRequest, Slate, SlatePost
from serving.funnel.runner import Funnel
from serving.metrics import Metrics
from serving.visits import Visit, Visits


@dataclass(frozen=True)
class PagePost:
    """A post of a page; its position counts from the start of the visit."""

    post: SlatePost
    explanation: Explanation
    ranked_at: datetime


@dataclass(frozen=True)
class Page:
    """One reply."""

    request_id: int
    user_id: int
    surface: str
    spec_version: str
    model_versions: dict[str, str]
    served_at: datetime
    posts: tuple[PagePost, ...]
    next_cursor: str | None
    degraded: tuple[str, ...]


class Feed:
    """Cuts pages from visits and starts the funnel where it is needed."""

    def __init__(
        self,
        funnel: Funnel,
        controls: ControlsReader,
        visits: Visits,
        signer: CursorSigner,
        served: ServedLog,
        clock: Clock,
        metrics: Metrics,
        new_id: Callable[[], int],
    ) -> None:
        self._funnel = funnel
        self._controls = controls
        self._visits = visits
        self._signer = signer
        self._served = served
        self._clock = clock
        self._metrics = metrics
        self._new_id = new_id

    def page(self, wish: FeedRequest, cursor: str | None = None) -> Page:
        """The next page. `wish.at`, its exclusions and an id it does not bring are set here. Raises CursorError."""
        request = replace(wish, at=self._clock.now(), request_id=wish.request_id or self._new_id() & MAX_ID)
        visit, offset = self._visit(request, cursor)
        with visit.lock:
            entries, end, degraded = self._cut(visit, offset, request)
        posts = tuple(
            PagePost(replace(slate.post(place), position=position), slate.explanation(place), slate.served_at)
            for position, slate, place in entries
        )
        next_cursor = None
        if posts and not (visit.is_exhausted and end >= visit.end):
            next_cursor = self._signer.write(Cursor(visit.visit_id, request.user_id, end), request.surface)
        page = Page(
            request.request_id, request.user_id, request.surface, self._funnel.spec.version,
            dict(self._funnel.model_versions), request.at, posts, next_cursor, degraded,
        )  # fmt: skip
        self._log(page, visit, request)
        return page

    def _visit(self, request: FeedRequest, cursor: str | None) -> tuple[Visit, int]:
        if cursor is None:
            visit = Visit(self._new_id() & MAX_ID, request.user_id, request.surface, self._visits.started())
            self._visits.keep(visit)
            return visit, 0
        at = self._signer.read(cursor, request.user_id, request.surface)
        known = self._visits.find(at.visit_id, request.user_id)
        if known is not None and at.offset >= known.first_offset:
            return known, at.offset
        # Another process began the visit, or it was dropped: go on behind what it has shown.
        visit = Visit(
            at.visit_id, request.user_id, request.surface, self._visits.started(),
            at.offset, self._shown(at.visit_id, request.user_id),
        )  # fmt: skip
        self._visits.keep(visit)
        return visit, at.offset

    def _shown(self, visit_id: int, user_id: int) -> tuple[int, ...]:
        try:
            return self._served.posts_of_visit(visit_id, user_id)
        except StoreUnavailableError:
            return ()

    def _cut(
        self, visit: Visit, offset: int, request: FeedRequest
    ) -> tuple[list[tuple[int, Slate, int]], int, tuple[str, ...]]:
        """Position, slate and place of each post of the page, where the next page starts, and what was missing."""
        barred_rows, barred_creators = self._barred(request)
        entries: list[tuple[int, Slate, int]] = []
        at, degraded, is_cached = offset, dict[str, None](), True
        while len(entries) < request.limit:
            if at >= visit.end:
                if visit.is_exhausted:
                    break
                visit.add(self._ranked(visit, request))
                is_cached = False
                continue
            slate, place = visit.entries[at - visit.first_offset]
            row, creator = int(slate.candidates.rows[place]), int(slate.creator_ids[place])
            if row not in barred_rows and creator not in barred_creators:
                entries.append((at, slate, place))
                degraded |= dict.fromkeys(slate.degraded)
            at += 1
        self._metrics.cache("slates", is_cached)
        return entries, at, tuple(degraded)

    def _ranked(self, visit: Visit, request: FeedRequest) -> Slate:
        window = self._funnel.spec.rerank.creator_window
        return self._funnel.rank(
            replace(
                request,
                session_id=visit.visit_id,
                exclude_post_ids=visit.held_post_ids(),
                previous_creator_ids=visit.last_creator_ids(window),
            )
        )

    def _barred(self, request: FeedRequest) -> tuple[frozenset[int], frozenset[int]]:
        """Rows hidden and creators blocked by now: they also leave pages that were ranked before."""
        user_row = self._funnel.snapshot.users.row_of(request.user_id)
        try:
            controls = self._controls.read(request.user_id, user_row, request.at)
        except StoreUnavailableError:
            return frozenset(), frozenset()
        return frozenset(controls.hidden_rows.tolist()), controls.blocked_creator_ids

    def _log(self, page: Page, visit: Visit, request: FeedRequest) -> None:
        posts = [p.post for p in page.posts]
        # The words that the models were fed, not the client's: training reads the request's words from here.
        country, language = self._funnel.words_of(request)
        record = ServedPage(
            page.request_id, visit.visit_id, page.user_id, page.surface, country, language, request.device,
            request.at, page.spec_version, model_versions_text(page.model_versions), page.degraded,
            tuple(p.position for p in posts), tuple(p.post_id for p in posts), tuple(p.propensity for p in posts),
            tuple(p.ranked_at for p in page.posts),
            tuple(p.sources for p in posts), tuple(_plain(p.explanation) for p in page.posts),
        )  # fmt: skip
        try:
            self._served.append(record)
        except StoreUnavailableError:
            self._metrics.degraded("served_log")


def model_versions_text(versions: dict[str, str]) -> str:
    """Versions as the impressions table keeps them: comma-separated kind=bundle id."""
    return ",".join(f"{kind}={bundle}" for kind, bundle in sorted(versions.items()))


def _plain(explanation: Explanation) -> dict[str, object]:
    return {
        "stage_scores": dict(explanation.stage_scores),
        "probabilities": dict(explanation.probabilities),
        "value_contributions": dict(explanation.value_contributions),
        "rules": list(explanation.rules),
    }
