"""A page and why it looks as it does: every stage of the rankings behind it, every number behind each post."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.ids import request_id_text
from serving.funnel.request import Explanation, Slate, SlatePost, StageReport
from serving.snapshot import Snapshot


@dataclass(frozen=True)
class PagePost:
    """A post of a page; its position counts from the start of the visit, `place` from that of its slate."""

    post: SlatePost
    slate: Slate
    place: int

    @property
    def explanation(self) -> Explanation:
        """Scores, probabilities, value and rules."""
        return self.slate.explanation(self.place)

    @property
    def ranked_at(self) -> datetime:
        """Serve time of the ranking."""
        return self.slate.served_at


@dataclass(frozen=True)
class Page:
    """One reply. Versions are those of the slate that its posts come from."""

    request_id: int
    user_id: int
    surface: str
    spec_version: str
    model_versions: dict[str, str]
    served_at: datetime
    posts: tuple[PagePost, ...]
    next_cursor: str | None
    degraded: tuple[str, ...]
    snapshot: Snapshot
    """What the rows of its posts are rows of."""


def explained(page: Page) -> dict[str, Any]:
    """The page as plain JSON values, with the stages of each ranking it was cut from."""
    slates = {id(entry.slate): entry.slate for entry in page.posts}
    return {
        "request_id": page.request_id,
        "user_id": page.user_id,
        "surface": page.surface,
        "requested_at": page.served_at.isoformat(),
        "spec_version": page.spec_version,
        "model_versions": page.model_versions,
        "degraded": list(page.degraded),
        "rankings": [_ranking(slate) for slate in slates.values()],
        "posts": [_post(entry) for entry in page.posts],
    }


def _ranking(slate: Slate) -> dict[str, Any]:
    return {
        "ranking_id": request_id_text(slate.request_id),
        "ranked_at": slate.served_at.isoformat(),
        "num_posts": len(slate),
        "degraded": list(slate.degraded),
        "stages": [_stage(report) for report in slate.stages],
    }


def _stage(report: StageReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "num_in": report.num_in,
        "num_out": report.num_out,
        "ms": round(1000 * report.seconds, 3),
        "removed": dict(report.removed),
        "notes": list(report.notes),
    }


def _post(entry: PagePost) -> dict[str, Any]:
    why = entry.explanation
    return {
        "post_id": entry.post.post_id,
        "position": entry.post.position,
        "ranking_id": request_id_text(entry.slate.request_id),
        "place": entry.place,
        "score": entry.post.score,
        "propensity": entry.post.propensity,
        "sources": list(entry.post.sources),
        "stage_scores": _short(why.stage_scores),
        "probabilities": _short(why.probabilities),
        "value_contributions": _short(why.value_contributions),
        "rules": list(why.rules),
    }


def _short(numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers to 6 digits: nobody reads more, and digits are what takes the room."""
    return {name: float(f"{value:.6g}") for name, value in numbers.items()}
