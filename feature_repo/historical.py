"""Point-in-time training frames through Feast's `get_historical_features`."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import FeatureStoreError, InputError, VitrineError
from core.workspace import Workspace
from feature_repo.catalog import CROSS_SOURCES, CROSS_VIEW, REQUEST_TIME
from feature_repo.columns import Columns, columns_from_arrow
from feature_repo.crosses import cross_features
from feature_repo.store import open_feature_store

if TYPE_CHECKING:
    import pandas as pd

ROW_NUMBER = "entity_row_number"
REQUIRED = ("user_id", "post_id", "creator_id", "event_timestamp")


def training_frame(workspace: Workspace, entity_rows: pa.Table, service: str) -> pa.Table:
    """`entity_rows`, all columns and order kept, with the features of `service` as `view__feature` columns.

    `entity_rows` has user_id, post_id, creator_id int64 and event_timestamp (microseconds, UTC), the
    serve time of each row; other columns pass through. Uses only rows with event time and known
    time at or before it, within the view's time to live.
    """
    missing = [c for c in REQUIRED if c not in entity_rows.column_names]
    if missing:
        raise InputError(f"entity rows lack {', '.join(missing)}; a training frame needs {', '.join(REQUIRED)}")
    store = open_feature_store(workspace)
    try:
        feature_service = store.get_feature_service(service)
        wanted = [f"{p.name_to_use()}__{f.name}" for p in feature_service.feature_view_projections for f in p.features]
        keys = entity_rows.select(list(REQUIRED))
        keys = keys.append_column(REQUEST_TIME, _unix_seconds(keys.column("event_timestamp")))
        keys = keys.append_column(ROW_NUMBER, pa.array(np.arange(keys.num_rows)))
        joined = store.get_historical_features(
            entity_df=keys.to_pandas(),
            features=feature_service,
            full_feature_names=True,
            filter_by_created_timestamp=True,
        ).to_arrow()
    except VitrineError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"Feast could not join {service} to {entity_rows.num_rows} rows in {workspace.root}: {error}; "
            "run `python -m feature_repo build` and `python -m feature_repo apply` first"
        ) from error
    numbers = joined.column(ROW_NUMBER).to_numpy()
    if not np.array_equal(numbers, np.arange(len(numbers))):  # Feast's own stores answer in any order
        joined = joined.take(pa.array(np.argsort(numbers, kind="stable")))
    frame = entity_rows
    for name in wanted:
        frame = frame.append_column(name, joined.column(name))
    return frame


def _unix_seconds(instants: pa.ChunkedArray) -> pa.ChunkedArray:
    micros = instants.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pc.divide(micros.cast(pa.float64()), 1e6)


def cross_frame(inputs: "pd.DataFrame") -> "pd.DataFrame":
    """The on-demand view's features by short name, [N] rows, from a frame of its sources by full name."""
    import pandas as pd

    names = [f"{view}__{feature}" for view, features in CROSS_SOURCES.items() for feature in features]
    columns = columns_from_arrow(pa.table({name: _arrow(inputs[name]) for name in names}))
    at_seconds = inputs[REQUEST_TIME].to_numpy(dtype="float64")
    crosses: Columns = cross_features(columns, columns, at_seconds)
    prefix = f"{CROSS_VIEW}__"
    return pd.DataFrame({name.removeprefix(prefix): values for name, values in crosses.items()})


def _arrow(series: "pd.Series") -> pa.Array:
    array = pa.array(series, from_pandas=True)
    return array if isinstance(array, pa.Array) else array.combine_chunks()
