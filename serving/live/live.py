"""One snapshot that lives: the view over it, who follows the journal for it, and who makes vectors of new posts."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.funnel.features import FunnelFeatures
from serving.live.tail import Tail
from serving.live.vectors import PostTower, VectorKeeper, VectorSink
from serving.live.view import LiveView


@dataclass(frozen=True)
class Live:
    """The view and who keeps it up to date. A newer snapshot brings one of its own."""

    view: LiveView
    tail: Tail
    keeper: VectorKeeper

    def follow(self, towers: Sequence[tuple[PostTower, VectorSink]], features: Sequence[FunnelFeatures]) -> None:
        """Gives newer models and caches what was written since the snapshot."""
        self.keeper.serve(towers, features)
        self.keeper.complete()
        self.keeper.write(self.view.snapshot.live_catalogue.changes_since(0)[1])

    @property
    def degraded(self) -> tuple[str, ...]:
        """`journal_tail` where the journal is not followed, `live_catalogue` where it has no more room."""
        problems = {"journal_tail": self.tail.is_behind, "live_catalogue": self.view.problem is not None}
        return tuple(name for name, is_there in problems.items() if is_there)
