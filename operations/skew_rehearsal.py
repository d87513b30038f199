"""Rankings made up for a skew audit where the service has kept none: the workspace's own funnel, feature log on."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from core.errors import MissingStageError, StoreUnavailableError
from core.settings import Settings
from events.served import ServedLog, ServedPage
from serving.bootstrap import Runtime, build_runtime
from serving.draw_requests import sample_requests
from serving.feature_log import FeatureLog, MaterializedText
from serving.feature_log_files import Kept, read_feature_log

FLUSH_EVERY = 25
"""Requests between writes, well within what the log holds in memory."""


@dataclass(frozen=True)
class Rehearsal:
    """What was kept, and the pages that were served with it."""

    kept: list[Kept]
    pages: dict[int, ServedPage]


@contextmanager
def _runtime(settings: Settings, folder: Path) -> Iterator[Runtime]:
    text = MaterializedText(settings.workspace)
    log = FeatureLog(folder, 1.0, lambda outcome, posts: None, text)
    runtime = build_runtime(settings, feature_log=log, is_patient=True)
    try:
        if missing := runtime.degraded():
            raise MissingStageError(
                f"{', '.join(missing)} of the funnel ({'; '.join(runtime.parts.problems.values())})",
                settings.workspace.root,
                "make pipeline",
            )
        yield runtime
    finally:
        runtime.close()


def rehearse(
    settings: Settings, num_requests: int, seed: int = 0, advance: Callable[[], None] = lambda: None
) -> Rehearsal:
    """Serves requests of recent users, held-out ones among them, and forgets them: neither the workspace's log nor
    its pages or served features see them.

    Every second request says nothing but its user, as a plain client's does. Raises MissingStageError without models
    and StoreUnavailableError when no ranking had features.
    """
    with TemporaryDirectory(prefix="skew-") as temporary:
        folder = Path(temporary)
        with _runtime(settings, folder / "features") as runtime, closing(ServedLog(folder / "served.db")) as served:
            numbers = count(1)
            feed = runtime.open_feed(served, lambda: next(numbers))
            rng = np.random.default_rng(seed)
            wishes = sample_requests(settings.workspace, runtime.snapshot, num_requests, runtime.clock.now(), rng)
            pages = {}
            for place, wish in enumerate(wishes):
                asked = wish if place % 2 else replace(wish, country=None, language=None, device=None)
                request_id = feed.page(asked).request_id
                if (page := served.page(request_id)) is not None:
                    pages[request_id] = page
                if place % FLUSH_EVERY == FLUSH_EVERY - 1 and runtime.feature_log is not None:
                    runtime.feature_log.flush()
                advance()
        kept = list(read_feature_log(folder / "features"))
    if wishes and not kept:
        raise StoreUnavailableError(
            f"none of {len(wishes)} requests reached the second stage with features; "
            "check Redis with `make status` and run `make materialize`"
        )
    return Rehearsal(kept, pages)
