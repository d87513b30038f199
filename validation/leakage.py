"""The last check before learning: no feature of a training row was known only after its use.

`require_known` judges known times that a table carries. `require_no_leak` needs none: it takes a sample of
the rows, looks up in the feature tables what was known at each row's time, and refuses the set when a
stored value is anything else. It shares nothing with the join that made the set.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import LeakError
from core.workspace import Workspace
from feature_repo.catalog import FIELDS, VIEWS, View
from validation.tables import Table

PROBED_ROWS = 2_000
PROBED_FEATURES = 12


@dataclass(frozen=True)
class Probe:
    """A sample of a training set: entity ids (-1 unknown) and time of use per row (unix seconds), values by full name.

    Null is NaN in floats and -1 in ints, as in `feature_repo.columns`.
    """

    entity_ids: Mapping[str, NDArray[np.int64]]
    used_at: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]


def require_known(
    view: str, known_at: NDArray[np.float64], is_joined: NDArray[np.bool_], used_at: NDArray[np.float64]
) -> None:
    """Raises LeakError when a joined row of `view` has no known time (NaN) or one after its use; unix seconds, [N]."""
    missing = np.flatnonzero(is_joined & np.isnan(known_at))
    if len(missing):
        raise LeakError(
            f"view {view}: {len(missing):,} of {len(used_at):,} rows carry features without a known time, "
            f"first at rows {missing[:3].tolist()}; every feature row needs known_at, build the features again"
        )
    late = np.flatnonzero(is_joined & (known_at > used_at))
    if len(late):
        shown = "; ".join(f"row {row} known {known_at[row] - used_at[row]:.0f} s after its use" for row in late[:3])
        raise LeakError(
            f"view {view}: {len(late):,} of {len(used_at):,} rows use features that were not known yet: {shown}; "
            "join with known time as the cutoff and build the set again"
        )


def require_no_leak(connection: duckdb.DuckDBPyConnection, workspace: Workspace, probe: Probe) -> int:
    """The number of values compared. Raises LeakError where a stored value is not the one known at its use."""
    num_compared = 0
    for view in VIEWS.values():
        names = _probed(view, probe)
        table = Table.at(view.name, workspace.features / view.name)
        if names and table.files:
            known = _known_values(connection, view, table, names, probe)
            for name, values in known.items():
                _require_equal(f"{view.name}__{name}", probe, view, values)
                num_compared += len(values)
    return num_compared


def _probed(view: View, probe: Probe) -> list[str]:
    """Up to PROBED_FEATURES numeric features of the view that the set has, spread over the view."""
    names = [f.name for f in view.fields if f.dtype in ("float", "int") and f"{view.name}__{f.name}" in probe.values]
    every = max(1, -(-len(names) // PROBED_FEATURES))
    return names[::every]


def _known_values(
    connection: duckdb.DuckDBPyConnection, view: View, table: Table, names: list[str], probe: Probe
) -> dict[str, NDArray[np.float64]]:
    """Per feature the value known at each row's use, null where none was, [N] each.

    Raises LeakError where a feature row has no known time.
    """
    used_us = np.round(probe.used_at * 1e6).astype(np.int64)
    rows = pa.table(
        {"place": np.arange(len(used_us)), "key": probe.entity_ids[view.entity], "used_us": used_us},
    )
    connection.register("probe", rows)
    columns = ", ".join(f"f.{name}::DOUBLE AS {name}" for name in names)
    found = connection.sql(f"""
        SELECT p.place, f.known_at IS NULL AS is_unknown, {columns}
        FROM probe p JOIN {table.source_sql} f
          ON f.{view.join_key} = p.key AND epoch_us(f.event_at) <= p.used_us
         AND (f.known_at IS NULL OR epoch_us(f.known_at) <= p.used_us)
        QUALIFY row_number() OVER (PARTITION BY p.place ORDER BY f.event_at DESC, f.known_at DESC) = 1
    """).to_arrow_table()
    connection.unregister("probe")
    if found["is_unknown"].to_numpy(zero_copy_only=False).any():
        raise LeakError(f"view {view.name}: a feature row has no known_at; run `python -m feature_repo build` again")
    known: dict[str, NDArray[np.float64]] = {}
    for name in names:
        values = np.full(len(used_us), -1.0 if FIELDS[f"{view.name}__{name}"].dtype == "int" else np.nan)
        values[found["place"].to_numpy()] = found[name].to_numpy()
        known[name] = values
    return known


def _require_equal(feature: str, probe: Probe, view: View, known: NDArray[np.float64]) -> None:
    stored = probe.values[feature]
    ids = probe.entity_ids[view.entity]
    odd = np.flatnonzero((ids >= 0) & ~np.isclose(stored, known, rtol=1e-5, atol=1e-6, equal_nan=True))
    if not len(odd):
        return
    shown = "; ".join(f"{view.join_key} {ids[r]} has {stored[r]:.6g}, known was {known[r]:.6g}" for r in odd[:3])
    raise LeakError(
        f"{feature}: {len(odd):,} of {len(known):,} probed rows hold a value that was not the one known at their use: "
        f"{shown}; build the training set again from the present feature tables"
    )
