"""Views that a model fills, for all of history at once: same folders, columns and clocks as the built ones.

data/features/<view>/day=YYYY-MM-DD/part.parquet    by the day a row became known
data/features/exports.json                          what the last export of each view was
"""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import InputError
from core.files import write_atomically
from core.schema import INSTANT
from core.workspace import Workspace
from events.swap import replace_folder
from feature_repo.catalog import EXPORTED_VIEWS, View

RECORD = "exports.json"
_TYPES = {
    "float": pa.float32(),
    "int": pa.int64(),
    "str": pa.string(),
    "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class Export:
    """The last export of one view. Another `made_by` may have changed the values of old rows."""

    view: str
    made_by: str
    rows: int
    last_event_at: str
    last_known_at: str


def view_schema(view: View) -> pa.Schema:
    """Arrow schema of the view's table."""
    fields = [pa.field(f.name, _TYPES[f.dtype]) for f in view.fields]
    clocks = [pa.field("event_at", INSTANT), pa.field("known_at", INSTANT)]
    return pa.schema([pa.field(view.join_key, pa.int64()), *fields, *clocks])


def write_export(workspace: Workspace, view: str, rows: pa.Table, made_by: str) -> Export:
    """Replaces the whole table of an exported view; a reader finds the old table or the new one.

    `rows` has the view's columns. Raises InputError for other columns, none at all, or a row known before it was true.
    """
    declared = EXPORTED_VIEWS[view]
    if sorted(rows.column_names) != sorted(declared.columns) or rows.num_rows == 0:
        raise InputError(
            f"export of {view} has {rows.num_rows} rows of {', '.join(rows.column_names)}; expected some of "
            f"{', '.join(declared.columns)}"
        )
    rows = rows.select(list(declared.columns)).cast(view_schema(declared))
    if pc.any(pc.less(rows["known_at"], rows["event_at"])).as_py():
        raise InputError(f"export of {view} has rows whose known_at is before their event_at; expected it at or after")
    place = workspace.features / view
    fresh = place.with_name(f".{view}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    days = rows["known_at"].cast(pa.int64()).to_numpy() // 86_400_000_000
    for day in np.unique(days):
        folder = fresh / f"day={datetime.fromtimestamp(int(day) * 86_400, UTC):%Y-%m-%d}"
        folder.mkdir(parents=True)
        pq.write_table(rows.filter(pa.array(days == day)), folder / "part.parquet", compression="zstd")
    replace_folder(fresh, place)
    latest = [pc.max(rows[clock]).as_py().isoformat() for clock in ("event_at", "known_at")]
    done = Export(view, made_by, rows.num_rows, *latest)
    record = {name: asdict(e) for name, e in (read_exports(workspace) | {view: done}).items()}
    write_atomically(workspace.features / RECORD, json.dumps(record, indent=1, sort_keys=True))
    return done


def read_exports(workspace: Workspace) -> dict[str, Export]:
    """The last export of each view; a view without one is left out."""
    path = workspace.features / RECORD
    if not path.exists():
        return {}
    try:
        return {name: Export(**fields) for name, fields in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a record of exports ({error}); run `python -m training foundation`") from error


def ensure_tables(workspace: Workspace) -> None:
    """Writes a typed table without rows for every exported view that has none, so that readers need no special case."""
    for view in EXPORTED_VIEWS.values():
        if any((workspace.features / view.name).glob("day=*/*.parquet")):
            continue
        folder = workspace.features / view.name / "day=1970-01-01"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(view_schema(view).empty_table(), folder / "part.parquet")
