"""Visits: when users come, how many requests a session has and how far each is scrolled."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from events.synthetic.config import WorldConfig
from events.synthetic.users import Users

_SECONDS_PER_DAY = 86_400.0
_QUIET_END_SECONDS = 600.0  # no request so late that its engagements would fall behind the end of the data
_HOURLY = (3, 2, 1, 1, 1, 2, 4, 6, 7, 6, 6, 6, 8, 7, 6, 6, 7, 8, 10, 12, 14, 14, 11, 6)
_ABROAD_SHARE = 0.1  # of requests of users with a second language, those made in it
_OVERSAMPLING = 1.25


@dataclass(frozen=True)
class Requests:
    """One entry per request in order of serve time."""

    user: NDArray[np.int64]
    session: NDArray[np.int64]
    language: NDArray[np.int64]
    served_at: NDArray[np.float64]  # unix seconds, whole microseconds
    depth: NDArray[np.int64]  # posts scrolled to
    num_burn_in: int  # leading requests before the window, simulated but not logged

    @property
    def count(self) -> int:
        return len(self.user)


def draw_requests(config: WorldConfig, users: Users, rng: np.random.Generator) -> Requests:
    """Requests whose posts scrolled to within the window add up to about `num_impressions`."""
    user, starts_at = _draw_sessions(config, users, rng)
    number = 1 + rng.poisson(config.visits.mean_requests - 1, size=len(user))
    session = np.repeat(np.arange(len(user)), number)
    owner = user[session]
    spread = config.visits.depth_deviation * rng.standard_normal(len(session))
    depth = np.clip(np.rint(users.patience[owner] + spread), 1, config.visits.slate_size).astype(np.int64)
    pause = 8.0 + 7.0 * depth + rng.exponential(30.0, size=len(session))
    elapsed = pause.cumsum() - pause
    first = np.r_[0, number.cumsum()[:-1]]
    served_at = (starts_at[session] + elapsed - elapsed[first][session]).round(3)
    kept = _thin(config, served_at, session, depth, rng)
    kept = kept[np.argsort(served_at[kept], kind="stable")]
    second = users.second_language[owner]
    abroad = (second >= 0) & (rng.random(len(owner)) < _ABROAD_SHARE)
    language = np.where(abroad, second, users.language[owner])
    return Requests(
        user=owner[kept],
        session=session[kept] + 1,
        language=language[kept],
        served_at=served_at[kept],
        depth=depth[kept],
        num_burn_in=int((served_at[kept] < config.start_seconds).sum()),
    )


def _thin(
    config: WorldConfig,
    served_at: NDArray[np.float64],
    session: NDArray[np.int64],
    depth: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Indices of the requests to keep: whole sessions at random until the wanted volume is met."""
    in_time = served_at < config.end_seconds - _QUIET_END_SECONDS
    logged = in_time & (served_at >= config.start_seconds)
    share = config.visits.num_impressions / max(float(depth[logged].sum()), 1.0)
    keeps = rng.random(int(session[-1]) + 1) < share
    return np.flatnonzero(in_time & keeps[session])


def _draw_sessions(
    config: WorldConfig, users: Users, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """User and start of each session by user and time: on local rhythms, after registration, half an hour apart."""
    visits = config.visits
    opens = config.start_seconds - visits.burn_in_days * _SECONDS_PER_DAY
    present = (config.end_seconds - np.maximum(users.registered_at, opens)) / (config.end_seconds - opens)
    days = config.num_days + visits.burn_in_days
    wanted = visits.num_impressions / (visits.mean_requests * visits.mean_depth) * days / config.num_days
    weight = users.activity * np.maximum(present, 0.0)
    number = rng.poisson(_OVERSAMPLING * wanted * weight / weight.sum())
    user = np.repeat(np.arange(users.count), number)
    starts_at = _on_rhythm(config, users, user, opens, days, rng)
    newcomer = np.flatnonzero(users.registered_at >= config.start_seconds)
    user = np.concatenate([user, newcomer])
    starts_at = np.concatenate([starts_at, users.registered_at[newcomer] + rng.uniform(20, 120, size=len(newcomer))])
    keep = (starts_at > users.registered_at[user]) & (starts_at >= opens)
    user, starts_at = user[keep], starts_at[keep]
    order = np.lexsort((starts_at, user))
    user, starts_at = user[order], starts_at[order]
    close = np.r_[False, (user[1:] == user[:-1]) & (np.diff(starts_at) < 1_800.0)]
    return user[~close], starts_at[~close]


def _on_rhythm(
    config: WorldConfig,
    users: Users,
    user: NDArray[np.int64],
    opens: float,
    days: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Unix seconds per session: a day, more often on weekends, and a local hour of the user's rhythm."""
    first_weekday = int(opens // _SECONDS_PER_DAY + 3) % 7  # 1 January 1970 was a Thursday; 0 is Monday
    calendar = np.arange(int(np.ceil(days)))
    lift = np.where((first_weekday + calendar) % 7 >= 5, config.visits.weekend_lift, 1.0)
    day = rng.choice(calendar, size=len(user), p=lift / lift.sum())
    hourly = np.array(_HOURLY) / sum(_HOURLY)
    hour = rng.choice(24, size=len(user), p=hourly) + rng.random(len(user)) + users.hour_shift[user]
    offset = np.array([market.utc_offset_hours for market in config.markets])[users.market[user]]
    return opens + (day + ((hour - offset) % 24.0) / 24.0) * _SECONDS_PER_DAY
