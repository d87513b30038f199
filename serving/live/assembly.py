"""Puts the live view together around loaded parts."""

from dataclasses import replace

from core.clock import Clock
from core.errors import StoreUnavailableError
from core.logs import logger
from events.journal import Journal
from serving.funnel.features import FunnelFeatures
from serving.funnel.first_stage import VectorRanker
from serving.funnels import FunnelSet
from serving.live.live import Live
from serving.live.reader import LiveReader
from serving.live.search import LiveSearch
from serving.live.tail import Tail
from serving.live.vectors import PostTower, VectorKeeper, VectorSink
from serving.live.view import LiveSnapshot, LiveView
from serving.parts import Parts


def live_parts(parts: Parts, snapshot: LiveSnapshot) -> Parts:
    """The parts, with a reader and a search that see what was written since the snapshot."""
    reader = LiveReader(parts.reader, snapshot.live_catalogue, snapshot.live_users)
    return replace(parts, reader=reader, search=LiveSearch(parts.search) if parts.search is not None else None)


def go_live(snapshot: LiveSnapshot, journal: Journal, clock: Clock, funnels: FunnelSet) -> Live:
    """The view over parts made by `live_parts`, up to date; nobody follows the journal before `tail.start()`."""
    reader = funnels.parts.reader
    if not isinstance(reader, LiveReader):
        raise ValueError("parts without a live reader; make them with live_parts")
    view = LiveView(snapshot, journal, clock, funnels.default.spec.value_model.weights)
    keeper = VectorKeeper(*_served(funnels), reader, snapshot.live_catalogue)
    keeper.complete()
    view.on_posts(keeper.write)
    tail = Tail(view)
    view.on_user_gone(snapshot.seen.forget)
    try:
        view.catch_up()
    except StoreUnavailableError as error:
        logger("serving").warning("journal not read", reason=str(error))
        tail.is_behind = True
    return Live(view, tail, keeper)


def follow(funnels: FunnelSet) -> None:
    """Gives the live view's writers the models and caches of funnels that were just exchanged."""
    if funnels.live is not None:
        funnels.live.follow(*_served(funnels))


def _served(funnels: FunnelSet) -> tuple[list[tuple[PostTower, VectorSink]], list[FunnelFeatures]]:
    """Who makes vectors of posts and who takes them, and every surface's features."""
    parts, towers = funnels.parts, list[tuple[PostTower, VectorSink]]()
    if isinstance(parts.search, LiveSearch) and isinstance(parts.tower, PostTower):
        towers.append((parts.tower, parts.search))
    if isinstance(parts.first_stage, VectorRanker) and isinstance(parts.first_stage.tower, PostTower):
        towers.append((parts.first_stage.tower, parts.first_stage))
    features = {id(funnel.features): funnel.features for funnel in funnels.by_surface.values()}
    return towers, list(features.values())
