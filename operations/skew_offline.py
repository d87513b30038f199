"""The offline half of a skew audit: what training would have joined to a ranking, and what was true earlier.

Legend: R rankings, M ranked posts of all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import FeatureStoreError, VitrineError
from core.workspace import Workspace
from events.served import ServedPage
from feature_repo.catalog import ALL_VIEWS
from feature_repo.columns import Columns, columns_from_arrow
from feature_repo.store import open_feature_store
from serving.funnel.feature_record import FeatureRecord
from training.example_rows import CONTEXT_TEXTS
from training.sets import joined_columns

SERVICE = "second_stage_v1"
_NUMBER = "entity_row_number"
_INSTANT = pa.timestamp("us", tz="UTC")

FindPage = Callable[[int], ServedPage | None]
"""The page that a request served, from which the log's row of the request is made."""


@dataclass(frozen=True)
class Batch:
    """Some rankings with their posts laid end to end."""

    records: tuple[FeatureRecord, ...]
    of_record: NDArray[np.int64]
    """Place of each post's ranking, [M]."""
    first_row: NDArray[np.int64]
    """Row of each ranking's first post, [R]."""
    post_ids: NDArray[np.int64]
    creator_ids: NDArray[np.int64]
    served_at: NDArray[np.int64]
    """Serve time of each post's ranking, unix microseconds, [M]."""

    @staticmethod
    def of(records: Sequence[FeatureRecord]) -> "Batch":
        counts = np.array([len(r.post_ids) for r in records])
        of_record = np.repeat(np.arange(len(records)), counts)
        micros = np.array([micros_of(r.served_at) for r in records], dtype=np.int64)
        return Batch(
            tuple(records),
            of_record,
            np.cumsum(counts) - counts,
            np.concatenate([r.post_ids for r in records]),
            np.concatenate([r.creator_ids for r in records]),
            micros[of_record],
        )

    def user_ids(self) -> NDArray[np.int64]:
        """User of each post's ranking, [M]."""
        return np.array([r.user_id for r in self.records], dtype=np.int64)[self.of_record]


def offline_columns(workspace: Workspace, batch: Batch, find_page: FindPage) -> tuple[Columns, NDArray[np.bool_]]:
    """What training joins to every ranked post, M rows, by the very code of training; and where the request's words
    are known, [R].

    Uses only what was known at the serve time of each ranking.
    """
    pages = [find_page(record.request_id) for record in batch.records]
    rows = {
        "user_id": pa.array(batch.user_ids()),
        "post_id": pa.array(batch.post_ids),
        "creator_id": pa.array(batch.creator_ids),
        "served_at": pa.array(batch.served_at).cast(_INSTANT),
    }
    for name in CONTEXT_TEXTS:
        words = np.array([(getattr(page, name) if page else None) or "" for page in pages], dtype=object)
        rows[f"request__{name}"] = pa.array(words[batch.of_record], pa.string())
    columns = joined_columns(workspace, pa.table(rows), SERVICE)
    return columns, np.array([page is not None for page in pages], dtype=np.bool_)


def stored_columns(
    workspace: Workspace, view: str, names: Sequence[str], ids: NDArray[np.int64], micros: NDArray[np.int64]
) -> Columns:
    """Features `names` (`view__feature`) of one view as known at each instant (unix microseconds), [N] or [N, L]."""
    key = ALL_VIEWS[view].join_key
    entity_rows = pd.DataFrame(
        {
            key: ids,
            "event_timestamp": pa.array(micros).cast(_INSTANT).to_pandas(),
            _NUMBER: np.arange(len(ids)),
        }
    )
    try:
        joined = (
            open_feature_store(workspace)
            .get_historical_features(
                entity_df=entity_rows,
                features=[name.replace("__", ":", 1) for name in names],
                full_feature_names=True,
                filter_by_created_timestamp=True,
            )
            .to_arrow()
        )
    except VitrineError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"Feast could not join {view} to {len(ids)} rows in {workspace.root}: {error}; "
            "run `python -m feature_repo build` and `python -m feature_repo apply` first"
        ) from error
    order = np.argsort(joined.column(_NUMBER).to_numpy(), kind="stable")
    return columns_from_arrow(joined.take(pa.array(order)), list(names))


def micros_of(at: datetime) -> int:
    """Unix microseconds, exactly."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def served_values(batch: Batch, name: str) -> tuple[NDArray[Any], bool]:
    """The column as served, and whether it has a row per ranking, [R], instead of one per post, [M]."""
    is_per_ranking = name in batch.records[0].user
    parts = [r.user[name] if is_per_ranking else r.posts[name] for r in batch.records]
    return np.concatenate(parts), is_per_ranking
