"""SQLite's errors as ours, for the files that live services write."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StoreUnavailableError


@contextmanager
def mapped_errors(what: str, path: Path) -> Iterator[None]:
    """Raises StoreUnavailableError where SQLite fails on `what`, such as "journal"."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailableError(
            f"{what} {path} cannot be read or written ({error}); "
            "check free disk space, permissions and that no other program locks it"
        ) from error
