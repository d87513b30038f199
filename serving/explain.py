"""A page and why it looks as it does: every stage of the rankings behind it, every number behind each post."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """The page as what orjson writes, with the stages of each ranking it was cut from."""
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
        "posts": _posts(page, list(slates.values())),
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


def _posts(page: Page, slates: list[Slate]) -> list[dict[str, Any]]:
    posts: dict[int, dict[str, Any]] = {}
    for slate in slates:
        entries = [entry for entry in page.posts if entry.slate is slate]
        numbers = _numbers(slate, np.array([entry.place for entry in entries]))
        posts |= {id(entry): _post(entry) | own for entry, own in zip(entries, numbers, strict=True)}
    return [posts[id(entry)] for entry in page.posts]


def _post(entry: PagePost) -> dict[str, Any]:
    return {
        "post_id": entry.post.post_id,
        "position": entry.post.position,
        "ranking_id": request_id_text(entry.slate.request_id),
        "place": entry.place,
        "score": entry.post.score,
        "propensity": entry.post.propensity,
        "sources": list(entry.post.sources),
        "rules": list(entry.slate.rules[entry.place]),
    }


def _numbers(slate: Slate, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Scores, probabilities and contributions of each place; all posts at once, because every page pays for this."""
    scores = np.stack([values[places] for values in slate.candidates.scores.values()], axis=1)
    probabilities = slate.candidates.probabilities
    chances = np.full((len(places), len(slate.heads)), np.nan) if probabilities is None else probabilities[places]
    kinds = {
        "stage_scores": _named(tuple(slate.candidates.scores), scores),
        "probabilities": _named(slate.heads, chances),
        "value_contributions": _named(slate.heads, chances * np.array(slate.weights)),
    }
    return [dict(zip(kinds, row, strict=True)) for row in zip(*kinds.values(), strict=True)]


def _named(names: tuple[str, ...], rows: NDArray[np.float64]) -> list[dict[str, np.float32]]:
    """Each row by name without what is not finite; in float32, whose digits are all that anybody reads."""
    short, is_finite = rows.astype(np.float32), np.isfinite(rows)
    if is_finite.all():
        return [dict(zip(names, row, strict=True)) for row in short]
    return [
        {name: value for name, value, is_known in zip(names, row, known, strict=True) if is_known}
        for row, known in zip(short, is_finite, strict=True)
    ]
