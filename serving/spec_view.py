"""A funnel spec for people: the funnel as a diagram, and every tunable path with its value, unit and range."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from serving.spec import FunnelSpec
from serving.spec_model import SpecModel
from serving.spec_paths import Tunable, tunables
from serving.spec_sources import AnySourceSpec

_WIDTH = 78


def as_view(spec: FunnelSpec) -> RenderableType:
    """The funnel as boxes from top to bottom, then the table of paths."""
    boxes: list[RenderableType] = [Text(f"{spec.surface}  {spec.version}", style="bold")]
    for title, lines in _stages(spec):
        if len(boxes) > 1:
            boxes.append(Text("│".center(_WIDTH)))
        boxes.append(Panel("\n".join(lines), title=title, title_align="left", width=_WIDTH))
    return Group(*boxes, _table(tunables(spec)))


def as_json(spec: FunnelSpec) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "surface": spec.surface,
        "version": spec.version,
        "stages": [{"stage": title, "does": lines} for title, lines in _stages(spec)],
        "paths": [{**asdict(tunable), "range": tunable.range} for tunable in tunables(spec)],
    }


def _stages(spec: FunnelSpec) -> Iterator[tuple[str, list[str]]]:
    """Name of each stage that is on, and what it does in lines."""
    rules, limits = spec.eligibility, spec.deadlines
    yield (
        f"user and eligibility · {limits.user_ms:g} ms",
        [
            f"language {rules.language}, country {rules.country}; integrity from {rules.min_integrity:g}",
            f"seen within {rules.hide_seen_days:g} days, hidden, blocked and muted are out",
        ],
    )
    yield (
        f"sources → {spec.blend.max_candidates:,} candidates · {limits.retrieval_ms:g} ms",
        [_source(name, source) for name, source in spec.sources.items()]
        + ([f"a user without history: {', '.join(spec.cold_start)}"] if spec.cold_start else []),
    )
    if spec.first_stage is not None:
        yield f"first stage → {spec.first_stage.keep:,} · {limits.first_stage_ms:g} ms", ["user vector · post vectors"]
    if spec.second_stage is not None:
        weights = " ".join(f"{weight:+g} {head}" for head, weight in spec.value_model.weights.items())
        yield (
            f"second stage, up to {spec.second_stage.max_candidates:,} · {limits.second_stage_ms:g} ms",
            ["probability of every engagement", f"value = {weights}"],
        )
    yield (
        f"rerank → {spec.rerank.slate_size:,} · {limits.rerank_ms:g} ms",
        [_said(spec.rerank), f"exploration: {_said(spec.exploration)}"],
    )
    stored = spec.precompute
    yield (
        f"when nothing can be ranked · the whole within {limits.request_ms:g} ms",
        [
            f"served in turn: {', '.join(spec.fallbacks.order)}",
            f"precomputed for {stored.max_users:,} users, up to {stored.max_age_seconds:,.10g} s old"
            if stored.enabled
            else "precompute is off",
        ],
    )


def _source(name: str, source: AnySourceSpec) -> str:
    deadline = f", within {source.deadline_ms:g} ms" if source.deadline_ms is not None else ""
    kind = "" if name == source.kind else f" ({source.kind})"
    return f"{name}{kind}: up to {source.quota:,}, weight {source.weight:g}{deadline}"


def _said(part: SpecModel) -> str:
    return ", ".join(f"{name} {value}" for name, value in part.model_dump(mode="json").items())


def _table(rows: tuple[Tunable, ...]) -> Table:
    table = Table(title="what can be tuned", title_justify="left")
    for name in ("path", "value", "unit", "range"):
        table.add_column(name, no_wrap=name == "path", overflow="fold")
    for row in rows:
        value = "null" if row.value is None else str(row.value).lower() if isinstance(row.value, bool) else row.value
        table.add_row(Text(row.path), str(value), row.unit, row.range)
    return table
