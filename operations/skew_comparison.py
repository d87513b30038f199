"""One batch of rankings held against training's join: the differences, their causes, and what was counted."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ids import request_id_text
from core.workspace import Workspace
from feature_repo.catalog import ALL_VIEWS, CROSS_SOURCES, CROSS_VIEW, FIELDS
from feature_repo.columns import Columns
from feature_repo.crosses import cross_features
from operations.skew_causes import Attribution, Difference, Reading, entity_of, micros_of_views
from operations.skew_offline import Batch, FindPage, micros_of, offline_columns, served_values, stored_columns
from operations.skew_outcome import Cause, Example, FeatureSkew, SkewReport
from operations.skew_values import is_same, shown
from serving.feature_log_files import Kept

NO_PAGE = "request words of pages that are no longer kept"


class Tally:
    """What was compared so far."""

    def __init__(self) -> None:
        self.features: dict[str, FeatureSkew] = {}
        self.not_compared: Counter[str] = Counter()
        self.num_requests = self.num_posts = 0
        self.served_at: list[datetime] = []

    def feature(self, name: str) -> FeatureSkew:
        return self.features.setdefault(name, FeatureSkew(name))

    def report(self, dataset: str, origin: str) -> SkewReport:
        first, last = (f(self.served_at).isoformat() if self.served_at else None for f in (min, max))
        return SkewReport(
            dataset, origin, first, last, self.num_requests,
            self.num_posts, tuple(self.features[n] for n in sorted(self.features)), dict(+self.not_compared),
        )  # fmt: skip


@dataclass
class _Found:
    """Differences of one feature: rows of its grain, values, and causes once known."""

    name: str
    is_per_ranking: bool
    rows: NDArray[np.int64]
    served: NDArray[Any]
    offline: NDArray[Any]
    causes: list[Cause]


class Comparison:
    """One batch on its way through the audit."""

    def __init__(
        self, workspace: Workspace, kept: Sequence[Kept], attribution: Attribution, find_page: FindPage, tally: Tally
    ) -> None:
        self._workspace = workspace
        self._batch = Batch.of([record for record, _ in kept])
        self._until = [micros_of_views(json.loads(until)) for _, until in kept]
        self._attribution = attribution
        self._find_page = find_page
        self._tally = tally

    def run(self) -> None:
        batch = self._batch
        offline, has_page = offline_columns(self._workspace, batch, self._find_page)
        self._tally.num_requests += len(batch.records)
        self._tally.num_posts += len(batch.post_ids)
        self._tally.served_at += [record.served_at for record in batch.records]
        names = [*batch.records[0].user, *batch.records[0].posts]
        offline |= self._outside_service([n for n in names if n not in offline and n in FIELDS])
        found = [f for name in names if (f := self._compare(name, offline, has_page)) is not None]
        self._explain_stored([f for f in found if f.name.partition("__")[0] in ALL_VIEWS])
        self._explain_crosses(found)
        for one in found:
            self._count(one)

    def _outside_service(self, names: Sequence[str]) -> Columns:
        """Served features that no feature service holds but crosses are computed from, M rows."""
        batch, columns = self._batch, Columns()
        for view in sorted({n.partition("__")[0] for n in names} & ALL_VIEWS.keys()):
            of_view = [n for n in names if n.startswith(f"{view}__")]
            columns |= stored_columns(self._workspace, view, of_view, self._entity_ids(view), batch.served_at)
        return columns

    def _entity_ids(self, view: str) -> NDArray[np.int64]:
        batch = self._batch
        by_entity = {"user": batch.user_ids(), "post": batch.post_ids, "creator": batch.creator_ids}
        return by_entity[entity_of(view)]

    def _compare(self, name: str, offline: Columns, has_page: NDArray[np.bool_]) -> _Found | None:
        """The differences of one feature; None where there is no difference or nothing to compare with."""
        served, is_per_ranking = served_values(self._batch, name)
        if name not in offline:
            self._tally.not_compared[f"no offline value of {name}"] += len(served)
            return None
        values = offline[name][self._batch.first_row] if is_per_ranking else offline[name]
        is_known = np.ones(len(served), dtype=np.bool_)
        if name.startswith("request__") and name not in ("request__hour", "request__weekday"):
            is_known = has_page
            self._tally.not_compared[NO_PAGE] += int((~has_page).sum())
        self._tally.feature(name).num_values += int(is_known.sum())
        rows = np.flatnonzero(~is_same(served, values) & is_known)
        if not len(rows):
            return None
        causes = [Cause.UNEXPLAINED] * len(rows)
        return _Found(name, is_per_ranking, rows, served[rows], values[rows], causes)

    def _explain_stored(self, found: Sequence[_Found]) -> None:
        for view in sorted({f.name.partition("__")[0] for f in found}):
            of_view = [f for f in found if f.name.startswith(f"{view}__")]
            rows = np.unique(np.concatenate([f.rows for f in of_view]))
            readings = [self._reading(view, int(row)) for row in rows]
            differences = [Difference(f.name, np.searchsorted(rows, f.rows), f.served, f.offline) for f in of_view]
            for one, causes in zip(of_view, self._attribution.causes(view, readings, differences), strict=True):
                one.causes = causes

    def _reading(self, view: str, row: int) -> Reading:
        """How the row of the view came to be; `row` counts rankings for a user's view, else posts."""
        batch, entity = self._batch, entity_of(view)
        place = row if entity == "user" else int(batch.of_record[row])
        record = batch.records[place]
        read_at, max_age = -np.inf, 0.0
        if entity != "user":
            within = row - int(batch.first_row[place])
            is_post = entity == "post"
            read_at = float((record.post_read_at if is_post else record.creator_read_at)[within])
            max_age = record.max_age_seconds[0 if is_post else 1]
        return Reading(
            entity_id=record.user_id if entity == "user" else int(self._entity_ids(view)[row]),
            served_micros=micros_of(record.served_at),
            read_micros=round(read_at * 1e6) if np.isfinite(read_at) else None,
            max_age_micros=round(max_age * 1e6),
            materialized_micros=self._until[place].get(view),
        )

    def _explain_crosses(self, found: Sequence[_Found]) -> None:
        """A cross has the most serious cause of the differing features it reads, if these do give the served value."""
        batch = self._batch
        sources = {f"{view}__{name}" for view, names in CROSS_SOURCES.items() for name in names}
        cause_at: dict[tuple[int, int | None], Cause] = {}
        for one in (f for f in found if f.name in sources):
            for row, cause in zip(one.rows.tolist(), one.causes, strict=True):
                key = (row, None) if one.is_per_ranking else (int(batch.of_record[row]), row)
                cause_at[key] = max(cause_at.get(key, cause), cause, key=lambda c: c.seriousness)
        for one in (f for f in found if f.name.startswith(f"{CROSS_VIEW}__")):
            again = self._recomputed(one.name, one.rows)
            for i, row in enumerate(one.rows.tolist()):
                place = int(batch.of_record[row])
                causes = [c for c in (cause_at.get((place, None)), cause_at.get((place, row))) if c is not None]
                if causes and is_same(one.served[i : i + 1], again[i : i + 1])[0]:
                    one.causes[i] = max(causes, key=lambda c: c.seriousness)

    def _recomputed(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The cross feature of the rows from the stored features that were served with it."""
        batch, values = self._batch, []
        for place in np.unique(batch.of_record[rows]):
            record = batch.records[place]
            within = rows[batch.of_record[rows] == place] - batch.first_row[place]
            posts = {n: v[within] for n, v in record.posts.items()}
            values.append(cross_features(record.user, posts, record.served_at.timestamp())[name])
        return np.concatenate(values)

    def _count(self, one: _Found) -> None:
        feature = self._tally.feature(one.name)
        for i, row in enumerate(one.rows.tolist()):
            feature.add(one.causes[i], self._example(one, i, row))

    def _example(self, one: _Found, i: int, row: int) -> Example:
        batch = self._batch
        record = batch.records[row if one.is_per_ranking else int(batch.of_record[row])]
        return Example(
            request_id=request_id_text(record.request_id),
            user_id=record.user_id,
            post_id=None if one.is_per_ranking else int(batch.post_ids[row]),
            creator_id=None if one.is_per_ranking else int(batch.creator_ids[row]),
            served_at=record.served_at.isoformat(),
            served=shown(one.served[i], one.offline[i]),
            offline=shown(one.offline[i], one.served[i]),
            cause=one.causes[i],
        )
