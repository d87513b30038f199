"""What the checks of `make leaks` share: their configuration, samples of a set, and what they answer."""

from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
from numpy.typing import NDArray

from training.examples import Examples
from validation.giveaway import MOST_ROWS
from validation.leakage import Leak

Told = Callable[[str, int, int], None]
"""Told what is being done, and (done, in all) of its steps."""


@dataclass(frozen=True)
class AuditConfig:
    """How much is looked at. Rows and instants are drawn by `seed`; `trusted` features may predict a label alone."""

    num_cuts: int = 5
    rows_per_cut: int = 2_000
    known_rows: int = 20_000
    alone_rows: int = MOST_ROWS
    trusted: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class CheckResult:
    """One question to one set. `num_values` were compared or judged; `note` says what was left out."""

    check: str
    num_rows: int
    num_values: int
    leaks: tuple[Leak, ...]
    note: str = ""


@dataclass(frozen=True)
class SetAudit:
    """What the audit found in one training set."""

    name: str
    set_id: str
    num_rows: int
    checks: tuple[CheckResult, ...]

    @property
    def leaks(self) -> list[Leak]:
        return [leak for check in self.checks for leak in check.leaks]


def sampled(rows: Examples, most: int, seed: int) -> Examples:
    """At most `most` of the rows, drawn by `seed`, in their order."""
    if rows.num_rows <= most:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(rows.num_rows, most, replace=False)))


def creators_of(connection: duckdb.DuckDBPyConnection, post_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Creator of each post [N], -1 for posts that the log does not have."""
    found = connection.sql(
        "SELECT post_id, arg_max(creator_id, event_at) AS creator_id FROM posts GROUP BY post_id ORDER BY post_id"
    ).to_arrow_table()
    ids, creators = found["post_id"].to_numpy(), found["creator_id"].to_numpy()
    if not len(ids):
        return np.full(len(post_ids), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ids, post_ids), len(ids) - 1)
    return np.where(ids[place] == post_ids, creators[place], -1).astype(np.int64)


def entity_ids(connection: duckdb.DuckDBPyConnection, rows: Examples) -> dict[str, NDArray[np.int64]]:
    """User, post and creator of each row, [N] each, -1 unknown; `connection` has the log's views."""
    posts = np.asarray(rows.post_ids, dtype=np.int64)
    users = np.asarray(rows.user_ids, dtype=np.int64)
    return {"user": users, "post": posts, "creator": creators_of(connection, posts)}
