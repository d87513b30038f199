"""Why served values of stored features differ: each difference is held against what the value was at the instants
that could explain it.

Legend: K differing rows of one view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.workspace import Workspace
from feature_repo.catalog import ALL_VIEWS
from feature_repo.columns import null_columns
from operations.skew_offline import micros_of, stored_columns
from operations.skew_outcome import Cause
from operations.skew_values import is_same
from serving.funnel.features import LIVE_FEATURES
from serving.funnel.input_bounds import InputBounds

Values = NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """How one served row of a view came to be: entity, serve time, and when and up to what it was read."""

    entity_id: int
    served_micros: int
    read_micros: int | None
    """When a cache read it; None for what is read for every request, or where the cache no longer holds it."""
    max_age_micros: int
    materialized_micros: int | None
    """How far the view was materialised when the request was served; None where it never was."""


@dataclass(frozen=True)
class Difference:
    """Differing rows of one feature: places among the view's readings, and the values served and offline."""

    feature: str
    places: NDArray[np.int64]
    served: Values
    offline: Values


def micros_of_views(until: Mapping[str, str]) -> dict[str, int]:
    """Unix microseconds by view from the log's text instants."""
    return {view: micros_of(datetime.fromisoformat(at)) for view, at in until.items()}


class Attribution:
    """Finds causes for one workspace. `ends` are the materialisations that Feast's registry remembers, by view."""

    def __init__(self, workspace: Workspace, ends: Mapping[str, Sequence[datetime]], bounds: InputBounds) -> None:
        self._workspace = workspace
        self._ends = {view: sorted({micros_of(at) for at in instants}) for view, instants in ends.items()}
        self._bounds = bounds

    def causes(self, view: str, readings: Sequence[Reading], differences: Sequence[Difference]) -> list[list[Cause]]:
        """A Cause for every differing value, aligned with each difference's places."""
        found = [self._at_once(d) for d in differences]
        names = [d.feature for d in differences]
        for cause, instants_of in (
            (Cause.NOT_MATERIALIZED, self._fresh_instants),
            (Cause.CACHED, self._cached_instants),
        ):
            wanted = sorted({int(p) for d, c in zip(differences, found, strict=True) for p in d.places[_open(c)]})
            pairs = [(place, at) for place in wanted for at in instants_of(view, readings[place])]
            if not pairs:
                continue
            earlier = self._values(view, names, readings, pairs)
            places = np.array([place for place, _ in pairs])
            for difference, causes in zip(differences, found, strict=True):
                _mark(difference, causes, places, earlier[difference.feature], self._bounds, cause)
        return found

    def _at_once(self, difference: Difference) -> list[Cause]:
        """Causes that need no earlier value; unexplained otherwise."""
        if difference.feature in LIVE_FEATURES:
            return [Cause.LIVE] * len(difference.places)
        bounded = self._bounds.applied({difference.feature: difference.offline})[difference.feature]
        is_null = is_same(difference.served, bounded)
        return [Cause.OUT_OF_BOUNDS if found else Cause.UNEXPLAINED for found in is_null]

    def _fresh_instants(self, view: str, reading: Reading) -> list[int | None]:
        """Up to when the online store can have known what a read at the serve time found; None: nothing at all."""
        until = reading.materialized_micros
        # The log learns of a materialisation a few seconds late.
        later = [e for e in self._ends.get(view, ()) if (until is None or e > until) and e <= reading.served_micros]
        return [until, *later]

    def _cached_instants(self, view: str, reading: Reading) -> list[int | None]:
        """The same for the earlier read of a cache, within the age it declares."""
        read = reading.read_micros
        if read is None or reading.served_micros - read > reading.max_age_micros:
            return []
        # The last may still have been under way, since it ends at the instant at which it began.
        earlier: list[int | None] = [end for end in self._ends.get(view, ()) if end <= read]
        return earlier[-2:] or [None]

    def _values(
        self, view: str, names: Sequence[str], readings: Sequence[Reading], pairs: Sequence[tuple[int, int | None]]
    ) -> dict[str, Values]:
        """Features of the pairs' entities as known at the pairs' instants; null before any materialisation."""
        values = null_columns(names, len(pairs))
        dated = np.array([i for i, (_, at) in enumerate(pairs) if at is not None], dtype=np.int64)
        if len(dated):
            ids = np.array([readings[pairs[i][0]].entity_id for i in dated], dtype=np.int64)
            micros = np.array([pairs[i][1] for i in dated], dtype=np.int64)
            for name, column in stored_columns(self._workspace, view, names, ids, micros).items():
                values[name][dated] = column
        return values


def entity_of(view: str) -> str:
    """user, post or creator."""
    return ALL_VIEWS[view].entity


def _open(causes: Sequence[Cause]) -> NDArray[np.bool_]:
    return np.array([cause == Cause.UNEXPLAINED for cause in causes], dtype=np.bool_)


def _mark(
    difference: Difference,
    causes: list[Cause],
    places: NDArray[np.int64],
    earlier: Values,
    bounds: InputBounds,
    cause: Cause,
) -> None:
    """Sets the cause of every open difference that has an earlier value equal to what was served."""
    position = {int(place): i for i, place in enumerate(difference.places)}
    chosen = [(i, position[int(place)]) for i, place in enumerate(places) if int(place) in position]
    if not chosen:
        return
    of_pair, of_difference = np.array(chosen, dtype=np.int64).T
    values, served = earlier[of_pair], difference.served[of_difference]
    bounded = bounds.applied({difference.feature: values})[difference.feature]
    is_found = is_same(served, values) | is_same(served, bounded)
    for i in of_difference[is_found]:
        if causes[i] == Cause.UNEXPLAINED:
            causes[i] = cause
