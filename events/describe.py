"""What the log holds: rows, days, size and time span of every table."""

from dataclasses import dataclass
from datetime import datetime

from core.schema import TABLES
from core.settings import Settings
from events.read import connect, register_log


@dataclass(frozen=True)
class TableSummary:
    """One table of the log; the span is None while it is empty."""

    table: str
    num_rows: int
    num_days: int
    size_bytes: int
    first_event_at: datetime | None
    last_event_at: datetime | None


def describe_log(settings: Settings) -> list[TableSummary]:
    """A summary of each table of the dataset's log, in the order of the schema."""
    log_root = settings.workspace.log
    summaries = []
    with connect(settings) as connection:
        register_log(connection, log_root)
        for table in TABLES:
            files = list((log_root / table).glob("day=*/*.parquet"))
            rows = connection.sql(f"SELECT count(*), min(event_at), max(event_at) FROM {table}").fetchall()
            num_rows, first, last = rows[0]
            num_days, size = len({file.parent for file in files}), sum(file.stat().st_size for file in files)
            summaries.append(TableSummary(table, num_rows, num_days, size, first, last))
    return summaries
