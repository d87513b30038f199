"""What a status row is, and the cheap readers that fill it: JSON, Parquet footers, folder sizes.

No Feast, MLflow, torch or DuckDB, which take seconds to import.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

State = Literal["ok", "missing", "degraded", "info"]


@dataclass(frozen=True)
class Item:
    """One row of the status: what it is, its value in words, its state, and the command that helps."""

    what: str
    value: str
    state: State = "ok"
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError for anything else, naming the file."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected an object")
    return content


def modified_at(path: Path) -> datetime:
    """When the file was last written, by the wall clock."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def minute(at: datetime) -> str:
    """An instant as people read it, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def span(length: timedelta) -> str:
    """A length of time in its largest fitting unit."""
    seconds = length.total_seconds()
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(num_bytes: float) -> str:
    """Bytes in their largest fitting unit."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of a file or of all files below a folder; links are not followed, vanished files count 0."""
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:  # a temporary file may be gone again
                continue
    return total


def parquet_rows(table: Path) -> int:
    """Rows of all Parquet files below a folder, from their footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in table.rglob("*.parquet"))


def newest(table: Path, column: str) -> datetime | None:
    """The greatest instant of a column in the newest day partition, from footers; None without statistics."""
    days = sorted(table.glob("day=*")) or [table]
    greatest: datetime | None = None
    for path in days[-1].glob("*.parquet"):
        footer = pq.read_metadata(path)
        place = footer.schema.to_arrow_schema().get_field_index(column)
        for group in range(footer.num_row_groups) if place >= 0 else ():
            statistics = footer.row_group(group).column(_leaf(footer, column)).statistics
            if statistics is not None and statistics.has_min_max and isinstance(statistics.max, datetime):
                at = statistics.max if statistics.max.tzinfo else statistics.max.replace(tzinfo=UTC)
                greatest = at if greatest is None else max(greatest, at)
    return greatest


def _leaf(footer: Any, column: str) -> int:
    """Place of a flat column among the leaves of the Parquet schema; lists take leaves of other names."""
    return next(i for i in range(footer.num_columns) if footer.schema.column(i).path == column)
