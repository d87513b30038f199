"""How models read the columns of KuaiRand: as features of the second stage, and which of them a tree can use."""

from collections.abc import Mapping
from typing import Any

from models.features import Feature, Side
from models.numeric import Transform
from training.published.kuairand_features import DURATION_EDGES, HISTORY_LENGTH, LIST_KINDS, Columns
from training.published.kuairand_log import KuaiRand

TREES_ONLY = "rate_profile_enter"
"""Rates that no history row tells run by day for rows that teach; networks that read them do worse on other heads."""


def kuairand_features(data: KuaiRand, columns: Columns) -> list[Feature]:
    """The features that read these columns, all but TREES_ONLY, tables sized by the data."""
    tables = {
        "video": (len(data.video_ids) + 2, 16),
        "author": (int(data.authors.max()) + 3, 8),
        "topic": (int(data.topics.max()) + 3, 8),
        "length": (len(DURATION_EDGES) + 3, 4),
    }

    def indexed(name: str, side: Side, table: str, rows: int, dim: int, group: str = "") -> Feature:
        kind: Any = "sequence" if group else "categorical"
        length = HISTORY_LENGTH if group else 1
        return Feature(name, side, kind, table=table, num_rows=rows, dim=dim, length=length, group=group)

    found = [indexed(f"post__{table}", "post", table, *shape) for table, shape in tables.items()]
    found += [
        indexed(f"{kind}__{table}", "user", table, *shape, group=kind)
        for kind in LIST_KINDS
        for table, shape in tables.items()
    ]
    found.append(indexed("request__surface", "user", "surface", int(data.surface.max()) + 3, 8))
    found.append(indexed("request__hour", "user", "hour", 26, 4))
    for name, side in _coded(columns):
        found.append(indexed(name, side, name.replace("__", "_"), int(columns[name].max()) + 3, 4))
    return found + [
        Feature(name, _side(name), "numeric", _transform(name)) for name in _numeric(columns) if TREES_ONLY not in name
    ]


def tree_columns(columns: Mapping[str, Any]) -> list[str]:
    """Columns a tree can use: all but the lists and the bare ids, which reach it through the rates."""
    without = {"post__video", "post__author"}
    return [
        name for name in columns if name not in without and not name.startswith(tuple(f"{k}__" for k in LIST_KINDS))
    ]


def _coded(columns: Columns) -> list[tuple[str, Side]]:
    return [(name, _side(name)) for name in columns if "__code_" in name]


def _numeric(columns: Columns) -> list[str]:
    return [name for name in columns if any(part in name for part in ("rate_", "_lift", "count", "seconds"))]


def _side(name: str) -> Side:
    prefix = name.partition("__")[0]
    return "post" if prefix == "post" else "cross" if prefix == "cross" else "user"


def _transform(name: str) -> Transform:
    return "logit" if "rate_" in name else "log1p" if "count" in name or "seconds" in name else "identity"
