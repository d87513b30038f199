"""The last check before learning: no feature of a training row was known only after its use.

`require_known` judges known times that a table carries. `late_values` needs none: it looks up in the feature
tables what was known at each row's time, and tells where a stored value is anything else. It shares nothing
with the join that made the set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import LeakError
from core.workspace import Workspace
from feature_repo.catalog import ALL_VIEWS, View
from feature_repo.columns import Columns, columns_from_arrow
from validation.tables import Table

PROBED_ROWS = 2_000
PROBED_FEATURES = 12

NO_KNOWN_TIME = "a feature row has no known_at; run `python -m feature_repo build` again"
NOT_KNOWN = "build the training set again from the present feature tables"


@dataclass(frozen=True)
class Probe:
    """A sample of a training set: entity ids (-1 unknown) and time of use per row (unix seconds), values by full name.

    Values are [N] or [N, L] and null as `feature_repo.columns` has it.
    """

    entity_ids: Mapping[str, NDArray[np.int64]]
    used_at: NDArray[np.float64]
    values: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Leak:
    """One feature that holds what it should not, in rows of those checked: what was found, up to three examples."""

    check: str
    feature: str
    num_rows: int
    num_checked: int
    found: str
    examples: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        shown = "; ".join(self.examples)
        rows = f"{self.num_rows:,} of {self.num_checked:,} probed rows"
        return f"{self.feature}: {rows} {self.found}: {shown}; {self.advice}"


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
    for view in ALL_VIEWS.values():
        leaks, num_values = late_values(connection, workspace, view, probe, PROBED_FEATURES)
        if leaks:
            raise LeakError(str(leaks[0]))
        num_compared += num_values
    return num_compared


def late_values(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, view: View, probe: Probe, max_features: int
) -> tuple[list[Leak], int]:
    """Features of `view` whose stored values are not those known at their use, and the number of values compared.

    At most `max_features` of the probe's features are looked at, spread over the view.
    """
    names = _probed(view, probe, max_features)
    table = Table.at(view.name, workspace.features / view.name)
    if not names or not table.files:
        return [], 0
    if dateless := _dateless_rows(connection, view, table):
        return [dateless], 0
    known = _known_values(connection, view, table, names, probe)
    leaks = [leak for name, values in known.items() if (leak := _late(connection, view, table, name, probe, values))]
    return leaks, len(known) * len(probe.used_at)


def rows_that_differ(stored: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.int64]:
    """Rows [K] at which the two [N] or [N, L] are not the same value; floats may differ by rounding."""
    if stored.dtype.kind == "f" or expected.dtype.kind == "f":
        is_same = np.isclose(stored, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    else:
        is_same = np.asarray(stored == expected)
    return np.flatnonzero(~is_same.reshape(len(stored), -1).all(axis=1))


def in_words(value: Any) -> str:
    """One value of a feature as a message shows it."""
    if isinstance(value, np.ndarray):
        return f"[{', '.join(in_words(part) for part in value[:4])}{', …' if len(value) > 4 else ''}]"
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _probed(view: View, probe: Probe, max_features: int) -> list[str]:
    """Features of the view that the set has, at most `max_features` of them, spread over the view."""
    names = [f.name for f in view.fields if f"{view.name}__{f.name}" in probe.values]
    every = max(1, -(-len(names) // max_features))
    return names[::every]


def _dateless_rows(connection: duckdb.DuckDBPyConnection, view: View, table: Table) -> Leak | None:
    rows = connection.execute(f"SELECT {view.join_key} FROM {table.source_sql} WHERE known_at IS NULL").fetchall()
    if not rows:
        return None
    shown = tuple(f"of {view.join_key} {key}" for (key,) in rows[:3])
    found = "carry no known time"
    return Leak("known time", f"view {view.name}", len(rows), table.num_rows, found, shown, NO_KNOWN_TIME)


def _known_values(
    connection: duckdb.DuckDBPyConnection, view: View, table: Table, names: list[str], probe: Probe
) -> Columns:
    """Per feature the value known at each row's use, null where none was, [N] or [N, L] each."""
    used_us = np.round(probe.used_at * 1e6).astype(np.int64)
    places = np.arange(len(used_us))
    connection.register("probe", pa.table({"place": places, "key": probe.entity_ids[view.entity], "used_us": used_us}))
    # Keys and instants first: a probed row meets every earlier row of its key, too many to carry their features.
    columns = ", ".join(f"f.{name} AS {view.name}__{name}" for name in names)
    found = connection.sql(f"""
        WITH winners AS (
            SELECT p.place, f.file_index, f.file_row_number
            FROM probe p JOIN {table.source_sql} f
              ON f.{view.join_key} = p.key AND epoch_us(f.event_at) <= p.used_us AND epoch_us(f.known_at) <= p.used_us
            QUALIFY row_number() OVER (PARTITION BY p.place ORDER BY f.event_at DESC, f.known_at DESC) = 1
        )
        SELECT place, {columns} FROM winners JOIN {table.source_sql} f USING (file_index, file_row_number)
    """).to_arrow_table()
    connection.unregister("probe")
    row_of_place = np.full(len(used_us), -1)
    row_of_place[found["place"].to_numpy()] = np.arange(found.num_rows)
    taken = found.drop_columns(["place"]).take(pa.array(row_of_place, mask=row_of_place < 0))
    return {name.removeprefix(f"{view.name}__"): values for name, values in columns_from_arrow(taken).items()}


def _late(
    connection: duckdb.DuckDBPyConnection, view: View, table: Table, name: str, probe: Probe, known: NDArray[Any]
) -> Leak | None:
    stored = probe.values[f"{view.name}__{name}"]
    ids = probe.entity_ids[view.entity]
    odd = rows_that_differ(stored, known)
    odd = odd[ids[odd] >= 0]
    if not len(odd):
        return None
    shown = []
    for row in odd[:3]:
        text = f"{view.join_key} {ids[row]} has {in_words(stored[row])}, known was {in_words(known[row])}"
        lateness = _lateness(connection, view, table, name, int(ids[row]), float(probe.used_at[row]), stored[row])
        shown.append(text if lateness is None else f"{text}, it was known {lateness:,.0f} s later")
    found = "hold a value that was not the one known at their use"
    return Leak("known time", f"{view.name}__{name}", len(odd), len(known), found, tuple(shown), NOT_KNOWN)


def _lateness(
    connection: duckdb.DuckDBPyConnection, view: View, table: Table, name: str, key: int, used_at: float, value: Any
) -> float | None:
    """Seconds from the use to the first moment at which `value` was known of the entity; None where it never was."""
    if np.ndim(value) or value is None:
        return None
    used_us = round(used_at * 1e6)
    found = connection.execute(
        f"SELECT min(epoch_us(known_at)) FROM {table.source_sql} "
        f"WHERE {view.join_key} = ? AND epoch_us(known_at) > ? AND {name} = ?",
        [key, used_us, value.item() if isinstance(value, np.generic) else value],
    ).fetchall()[0][0]
    return None if found is None else (found - used_us) / 1e6
