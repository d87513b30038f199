"""What is in the feature store: views, grains, features, rows and freshness, for people."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.table import Table

from core.errors import MissingStageError
from core.workspace import Workspace
from feature_repo.build import read_build
from feature_repo.catalog import ALL_VIEWS, CROSS_FIELDS, CROSS_TAGS, CROSS_VIEW, FeatureField
from feature_repo.exported import read_exports


def num_features() -> int:
    """Features of all views, stored and on demand."""
    return sum(len(v.fields) for v in ALL_VIEWS.values()) + len(CROSS_FIELDS)


def describe_table(workspace: Workspace) -> Table:
    """One line per view: entity, grain, features, rows, last event and known time."""
    built = _built(workspace)
    table = Table(title=f"{num_features()} features in {len(ALL_VIEWS) + 1} views", title_justify="left")
    for column in ("view", "entity", "features", "rows", "last event", "last known", "grain"):
        is_number = column in ("features", "rows")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != "grain")
    for view in ALL_VIEWS.values():
        facts = built.get(view.name, {})
        rows = f"{facts['rows']:,}" if facts else "not built"
        times = (_minute(facts.get("last_event_at")), _minute(facts.get("last_known_at")))
        table.add_row(view.name, view.entity, str(len(view.fields)), rows, *times, view.grain)
    table.add_row(CROSS_VIEW, "user, post", str(len(CROSS_FIELDS)), "on demand", "", "", CROSS_TAGS["grain"])
    return table


def describe_markdown() -> str:
    """The feature reference as Markdown; says nothing that depends on a data set."""
    parts = [
        "# Features\n",
        f"{num_features()} features in {len(ALL_VIEWS) + 1} views. "
        "Written by `python -m feature_repo describe --markdown`",
        "from `feature_repo/catalog.py`; every stored table also has its join key, `event_at` and `known_at`.\n",
    ]
    for view in ALL_VIEWS.values():
        parts += [
            f"## {view.name}\n",
            f"{_tags_said(view.tags, f'{view.entity} (`{view.join_key}`)')}\n",
            _fields(view.fields),
        ]
    parts += [f"## {CROSS_VIEW}\n", f"{_tags_said(CROSS_TAGS, 'user, post')}\n", _fields(CROSS_FIELDS)]
    return "\n".join(parts)


def _tags_said(tags: dict[str, str], entity: str) -> str:
    return (
        f"{tags['description']} Entity: {entity}. Grain: {tags['grain']}. Freshness: {tags['freshness']}. "
        f"Owner: {tags['owner']}."
    )


def _fields(fields: tuple[FeatureField, ...]) -> str:
    lines = ["| feature | type | meaning |", "|---|---|---|"]
    for f in fields:
        shape = f"{f.dtype}[{f.length}]" if f.length else f.dtype
        lines.append(f"| `{f.name}` | {shape} | {f.meaning} |")
    return "\n".join([*lines, ""])


def _built(workspace: Workspace) -> dict[str, dict[str, Any]]:
    try:
        views = read_build(workspace)["views"]
    except MissingStageError:
        return {}
    return {v["view"]: v for v in views} | {name: asdict(e) for name, e in read_exports(workspace).items()}


def _minute(at: object) -> str:
    return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M") if isinstance(at, str) else ""
