"""Who is served in an evaluation and in which context: held-out users of the world, drawn per seed."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import InputError
from core.settings import Settings
from events.read import connect, latest, register_log
from operations.outcome import NEW_USER_EVENTS
from serving.funnel.request import FeedRequest
from training.splits import is_held_out

DEVICES = ("ios", "android", "web")

_USERS_SQL = """
WITH seen AS (SELECT user_id, count(*) AS num FROM impressions GROUP BY user_id),
acted AS (SELECT user_id, count(*) AS num FROM engagements GROUP BY user_id),
context AS (
    SELECT user_id, arg_max(device, event_at) AS device, arg_max(surface, event_at) AS surface
    FROM requests GROUP BY user_id
)
SELECT u.user_id, u.country, u.language, context.device, context.surface,
       coalesce(seen.num, 0) + coalesce(acted.num, 0) AS num_events
FROM {users} u
LEFT JOIN seen USING (user_id) LEFT JOIN acted USING (user_id) LEFT JOIN context USING (user_id)
ORDER BY u.user_id
"""


@dataclass(frozen=True)
class Visit:
    """One request that every policy answers."""

    seed: int
    is_new_user: bool
    request: FeedRequest


@dataclass(frozen=True)
class Population:
    """The held-out users by row, with the context of their last request; null device where they never asked."""

    users: pa.Table

    def __len__(self) -> int:
        return int(self.users.num_rows)


def held_out_population(settings: Settings) -> Population:
    """Every held-out user of the log. Raises InputError when there is none."""
    connection = connect(settings)
    try:
        register_log(connection, settings.workspace.log)
        users = connection.sql(_USERS_SQL.format(users=latest(connection, "users"))).to_arrow_table()
    finally:
        connection.close()
    chosen = users.filter(pa.array(is_held_out(users["user_id"].to_numpy())))
    if chosen.num_rows == 0:
        raise InputError(
            f"none of {users.num_rows} users in {settings.workspace.log} is held out; "
            "make a larger world, such as `make data SCALE=0.1`"
        )
    return Population(chosen)


def draw_visits(population: Population, seed: int, num_users: int, slots: int, at: datetime) -> list[Visit]:
    """`num_users` distinct held-out users (all, when there are fewer), one request of `slots` posts each at `at`.

    Country, language, device and surface are those of the user's last request; who never asked gets a drawn device.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    chosen = rng.choice(len(population), size=min(num_users, len(population)), replace=False)
    devices = rng.choice(DEVICES, size=len(chosen))
    rows = population.users.take(pa.array(np.sort(chosen))).to_pylist()
    return [_visit(row, seed, place, str(devices[place]), slots, at) for place, row in enumerate(rows)]


def _visit(row: dict[str, object], seed: int, place: int, device: str, slots: int, at: datetime) -> Visit:
    request = FeedRequest(
        user_id=int(str(row["user_id"])),
        at=at,
        limit=slots,
        surface=str(row["surface"] or "explore"),
        request_id=(seed << 32) + place + 1,
        session_id=(seed << 32) + place + 1,
        country=None if row["country"] is None else str(row["country"]),
        language=None if row["language"] is None else str(row["language"]),
        device=str(row["device"] or device),
    )
    return Visit(seed, int(str(row["num_events"])) < NEW_USER_EVENTS, request)


def user_ids_of(visits: list[Visit]) -> NDArray[np.int64]:
    """User of each visit, [N]."""
    return np.array([visit.request.user_id for visit in visits], dtype=np.int64)
