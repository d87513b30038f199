"""Deletions after which a SQLite file no longer holds what was deleted, neither in free pages nor in its journal."""

import sqlite3
from collections.abc import Sequence

CHECKPOINT_MS = 50
"""Longest wait for other processes, since requests wait as long. A journal that could not be emptied is overwritten
with the next writes."""
BUSY_MS = 5_000


def overwrite_deleted(connection: sqlite3.Connection) -> None:
    """From now on what this connection deletes is overwritten."""
    connection.execute("PRAGMA secure_delete = ON")


def erase(connection: sqlite3.Connection, query: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Runs a DELETE per row, on a connection in WAL mode that overwrites what it deletes."""
    connection.executemany(query, rows)
    try:
        connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MS}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
