"""What is where in a workspace: every stage's output, its age and state, and the command that makes what is missing.

Reads files only, so that it starts fast and works on an empty or half-built workspace: a broken part
becomes a row that says so.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from core.errors import VitrineError
from core.settings import Settings
from operations.status_data import data_items, feature_items, training_set_items
from operations.status_health import (
    disk_items,
    evaluation_items,
    gate_items,
    journal_items,
    quarantine_items,
    skew_items,
)
from operations.status_items import Item
from operations.status_models import index_items, model_items, snapshot_items
from operations.status_store import online_store_items

CHECKS: tuple[tuple[str, Callable[[Settings], list[Item]]], ...] = (
    ("data", data_items),
    ("gates", gate_items),
    ("quarantine", quarantine_items),
    ("features", feature_items),
    ("online store", online_store_items),
    ("training sets", training_set_items),
    ("models", model_items),
    ("index", index_items),
    ("snapshot", snapshot_items),
    ("journal", journal_items),
    ("evaluation", evaluation_items),
    ("skew", skew_items),
    ("disk", disk_items),
)
"""Every part of a workspace in the order of the pipeline."""

BROKEN = (VitrineError, OSError, ValueError, LookupError, TypeError, AttributeError, sqlite3.Error)
"""What reading a damaged or half-written file raises."""

MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "degraded": "[red]degraded[/]", "info": ""}


@dataclass(frozen=True)
class WorkspaceStatus:
    """Every item by area, in the order of the pipeline."""

    areas: dict[str, list[Item]]

    @property
    def degraded(self) -> list[str]:
        """`area: what` of everything that is there but not as it should be."""
        return self._in_state("degraded")

    @property
    def missing(self) -> list[str]:
        """`area: what` of everything that was not made yet."""
        return self._in_state("missing")

    def _in_state(self, state: str) -> list[str]:
        return [f"{area}: {item.what}" for area, items in self.areas.items() for item in items if item.state == state]

    def to_json(self) -> dict[str, object]:
        areas = {area: [item.to_json() for item in items] for area, items in self.areas.items()}
        return {"degraded": self.degraded, "missing": self.missing, "areas": areas}


def workspace_status(settings: Settings) -> WorkspaceStatus:
    """The state of the settings' workspace. Never raises for what it finds there."""
    return WorkspaceStatus({area: _guarded(check, settings) for area, check in CHECKS})


def _guarded(check: Callable[[Settings], list[Item]], settings: Settings) -> list[Item]:
    try:
        return check(settings)
    except BROKEN as error:
        return [Item("unreadable", f"{type(error).__name__}: {error}", "degraded")]


def status_table(status: WorkspaceStatus, title: str) -> Table:
    """The status as a table of area, what, state, and value with the command that helps."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("area", "what", "state", "value"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "value")
    for area, items in status.areas.items():
        for place, item in enumerate(items):
            name = f"[bold]{area}[/]" if place == 0 else ""
            remedy = f" → {item.remedy}" if item.remedy else ""
            table.add_row(name, escape(item.what), MARKS[item.state], escape(item.value + remedy))
    return table
