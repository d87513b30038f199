"""Feast's answer to get_online_features: which rows it needs, and how they fill it a column at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from feast.metrics import track_feature_statuses
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _get_table_entity_values
from numpy.typing import NDArray

from feature_repo.stores.packed.keys import KeySpace, entities_of_values
from feature_repo.stores.packed.wide import WideRows
from feature_repo.stores.packed.wire import status_column, time_column, value_columns, varint

_RESULT = b"\x12"  # field 2 of the response, length-delimited
Unpack = Callable[[Any, Sequence[bytes | None]], WideRows]
"""View and raw rows to rows within their time to live."""


@dataclass(frozen=True)
class ViewRead:
    """One view of a request: its features, the keys of its distinct entities and which row wants which, [N]."""

    view: Any
    features: Sequence[str]
    keys: Sequence[bytes]
    places: NDArray[np.int64] | None


class FeatureRead:
    """One call of get_online_features, planned: `keys` to fetch at once, then `fill`."""

    def __init__(
        self,
        space: KeySpace,
        name_of: Callable[[Any], str],
        grouped_refs: Sequence[tuple[Any, Sequence[str]]],
        join_key_values: Mapping[str, Sequence[Value]],
        entity_names: Mapping[str, str],
    ) -> None:
        self._views: list[ViewRead] = []
        entities_of: dict[tuple[tuple[str, int], ...], tuple[list[bytes], NDArray[np.int64] | None]] = {}
        for view, features in grouped_refs:
            values = _join_values(view, join_key_values, entity_names)
            same = tuple((name, id(column)) for name, column in values.items())
            if same not in entities_of:
                entities_of[same] = _distinct(entities_of_values(values))
            entities, places = entities_of[same]
            self._views.append(ViewRead(view, features, space.keys(name_of(view), entities), places))
        self.keys = [key for read in self._views for key in read.keys]

    def fill(
        self,
        response: GetOnlineFeaturesResponse,
        unpack: Unpack,
        full_names: bool,
        with_version: bool,
        raw: Sequence[bytes | None],
    ) -> None:
        """Appends every view's features; `raw` are the rows of `keys`."""
        for read, rows in self._rows(raw, unpack):
            view = read.view
            prefix = f"{view.projection.name_to_use()}__" if full_names else ""
            response.metadata.feature_names.val.extend(prefix + name for name in read.features)
            if with_version:
                _add_version(response, view)
            response.MergeFromString(_results(rows, read.features))
            num_found = rows.num_found * len(read.features)
            track_feature_statuses(view.name, num_found, len(rows) * len(read.features) - num_found)

    def _rows(self, raw: Sequence[bytes | None], unpack: Unpack) -> Iterator[tuple[ViewRead, WideRows]]:
        start = 0
        for read in self._views:
            rows = unpack(read.view, raw[start : start + len(read.keys)])
            start += len(read.keys)
            yield read, rows if read.places is None else rows.take(read.places)


def _results(wide: WideRows, features: Sequence[str]) -> bytes:
    """Bytes of `GetOnlineFeaturesResponse.results`, a FeatureVector per feature.

    An expired row answers with its event time and null values.
    """
    rows = wide.view(0)
    statuses = np.where(rows.found, FieldStatus.PRESENT, FieldStatus.NOT_FOUND)
    if wide.expired is not None:
        statuses[wide.expired[:, 0]] = FieldStatus.OUTSIDE_MAX_AGE
    has_time = statuses != FieldStatus.NOT_FOUND
    shared = status_column(statuses.astype(np.uint8)) + time_column(rows.event_us, has_time)
    pieces = []
    for column in value_columns(rows, features):
        pieces += [_RESULT, varint(len(column) + len(shared)), column, shared]
    return b"".join(pieces)


def _join_values(
    view: Any, join_key_values: Mapping[str, Sequence[Value]], entity_names: Mapping[str, str]
) -> dict[str, Sequence[Value]]:
    """The view's own join keys and their values, [N]. Raises KeyError, as Feast does, when none is given."""
    values = dict(_get_table_entity_values(view, entity_names, join_key_values))
    if not any(values.values()):
        wanted = sorted(entity_names[name] for name in view.entities)
        raise KeyError(f"Missing join key values for keys: {wanted}. Provided: {sorted(join_key_values)}")
    return values


def _distinct(entities: list[bytes]) -> tuple[list[bytes], NDArray[np.int64] | None]:
    """Entities without repetition, and the place of every original one; None where nothing repeats."""
    places = {entity: place for place, entity in enumerate(dict.fromkeys(entities))}
    if len(places) == len(entities):
        return entities, None
    return list(places), np.fromiter((places[e] for e in entities), dtype=np.int64, count=len(entities))


def _add_version(response: GetOnlineFeaturesResponse, view: Any) -> None:
    name = view.projection.name_alias or view.projection.name
    if name not in {m.name for m in response.metadata.feature_view_metadata}:
        metadata = response.metadata.feature_view_metadata.add()
        metadata.name = name
        metadata.version = getattr(view, "current_version_number", 0) or 0
