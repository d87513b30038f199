"""Makes slates for chosen users off-peak, so that they have a personal feed at overload and when ranking is down."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import ConfigError, InputError, StoreUnavailableError
from core.ids import MAX_ID, internal_id
from serving.bootstrap import Runtime, default_surface
from serving.funnel.request import FeedRequest, Slate
from serving.precomputed import forget_users, save_slates
from serving.snapshot import Users

Progress = Callable[[range, int], Iterable[int]]


@dataclass(frozen=True)
class PrecomputeReport:
    """What was made."""

    num_users: int
    num_empty: int
    folder: Path
    num_bytes: int


def most_active(users: Users, count: int) -> list[int]:
    """Ids of the users who saw most posts lately, most first."""
    seen = np.diff(users.seen.offsets)
    return [int(users.user_ids[place]) for place in np.argsort(-seen, kind="stable")[:count]]


def listed_users(path: Path) -> list[int]:
    """Ids of the users in a text file, the product's own id per line. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the users in {path}: {error}") from error
    found = list(dict.fromkeys(internal_id(line.strip()) for line in lines if line.strip()))
    if not found:
        raise InputError(f"{path} names no user; expected one id per line")
    return found


def precompute(
    runtime: Runtime, user_ids: list[int], seed: int = 0, progress: Progress = lambda steps, total: steps
) -> PrecomputeReport:
    """Replaces the stored slates by new ones of these users, all of the running spec and models.

    Raises InputError for more users than the spec allows or none with a feed, StoreUnavailableError where a slate
    could not be ranked in full: a stored fallback would hide the fault that made it.
    """
    if not runtime.spec.precompute.enabled:
        raise ConfigError("the funnel spec has precompute.enabled false: nothing that is stored would be served")
    limit = runtime.spec.precompute.max_users
    if len(user_ids) > limit:
        raise InputError(f"{len(user_ids):,} users, but precompute.max_users is {limit:,}; name fewer or raise it")
    surface = default_surface(runtime.spec, runtime.snapshot)
    at, rng = runtime.clock.now(), np.random.default_rng(seed)
    gone = _deleted_users(runtime)
    user_ids = [user_id for user_id in user_ids if user_id not in gone]
    slates: list[Slate] = []
    for place in progress(range(len(user_ids)), len(user_ids)):
        request_id = int(rng.integers(MAX_ID))
        slate = runtime.funnel.rank(FeedRequest(user_ids[place], at, surface=surface, request_id=request_id))
        if slate.degraded:
            raise StoreUnavailableError(
                f"a user could not be ranked in full (without {', '.join(slate.degraded)}); "
                "nothing was replaced; see /readyz and run it again"
            )
        slates.append(slate)
    full = [slate for slate in slates if len(slate)]
    folder = save_slates(runtime.workspace.precomputed, full, runtime.spec.rerank.slate_size)
    # Whoever was deleted since the beginning is erased here; later ones are erased by the server.
    forget_users(runtime.workspace.precomputed, sorted(_deleted_users(runtime) - gone))
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return PrecomputeReport(len(full), len(slates) - len(full), folder, num_bytes)


def _deleted_users(runtime: Runtime) -> set[int]:
    """Ids of users who were ever deleted: the snapshot may still hold what they did before."""
    return {user_id for _, user_id in runtime.journal.deleted_users(0)}
