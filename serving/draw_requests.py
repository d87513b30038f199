"""Which requests are drawn: those that models learn from, and those that judge them."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from core.held_out import DAY_SECONDS, is_held_out, last_hour, test_days
from core.schema import REQUESTS
from core.workspace import Workspace
from serving.funnel.request import FeedRequest
from serving.snapshot import Snapshot

RECENT_DAYS = 3

Part = Literal["all", "train", "test"]
"""train: before the test days, of users who are not held out. test: on the test days, of users who are.
A user has one request in either part: all are ranked on the features of one instant."""


def sample_requests(
    workspace: Workspace,
    snapshot: Snapshot,
    count: int,
    at: datetime,
    rng: np.random.Generator,
    part: Part = "all",
) -> list[FeedRequest]:
    """Requests of the last days, drawn uniformly; made up for drawn users where the log has none of the part."""
    rows = _recent_requests(workspace, at, part)
    if rows.num_rows == 0:
        users = snapshot.users.user_ids
        users = users[_is_of(part, users)]
        chosen = rng.choice(users, size=min(count, len(users)), replace=False) if len(users) else users
        return [FeedRequest(int(user), at, request_id=int(user) + 1) for user in np.sort(chosen)]
    places = rng.permutation(rows.num_rows)
    if part != "all":
        _, first = np.unique(rows["user_id"].to_numpy()[places], return_index=True)
        places = places[np.sort(first)]
    return [
        FeedRequest(
            user_id=row["user_id"],
            at=at,
            surface=row["surface"],
            request_id=row["request_id"],
            session_id=row["session_id"],
            country=row["country"],
            language=row["language"],
            device=row["device"],
        )
        for row in rows.take(pa.array(np.sort(places[:count]))).to_pylist()
    ]


def _recent_requests(workspace: Workspace, at: datetime, part: Part) -> pa.Table:
    manifest = workspace.manifest()
    test_from = datetime.fromtimestamp(last_hour(manifest.last_event_at) - test_days(manifest.kind) * DAY_SECONDS, UTC)
    first = (at if part == "all" else min(at, test_from)) - timedelta(days=RECENT_DAYS)
    days = [(first + timedelta(days=ahead)).date().isoformat() for ahead in range((at - first).days + 1)]
    folder = workspace.log / REQUESTS.name
    files = sorted(str(file) for day in days for file in (folder / f"day={day}").glob("*.parquet"))
    if not files:
        return REQUESTS.arrow.empty_table()
    table = ds.dataset(files, schema=REQUESTS.arrow).to_table().sort_by("request_id")
    if part == "all":
        return table
    asked_at = table["event_at"].cast(pa.int64()).to_numpy() / 1e6
    is_late = asked_at >= test_from.timestamp()
    return table.filter(pa.array(_is_of(part, table["user_id"].to_numpy()) & (is_late == (part == "test"))))


def _is_of(part: Part, user_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whose requests may be in the part, [N]."""
    if part == "all":
        return np.ones(len(user_ids), dtype=np.bool_)
    return is_held_out(user_ids) == (part == "test")
