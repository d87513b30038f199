"""State of what must hold while the platform runs: gates, quarantine, the journal, disk, the last evaluation."""

import sqlite3
from collections import Counter
from contextlib import closing
from datetime import datetime
from typing import Any

from core.settings import Settings
from operations.status_items import Item, folder_bytes, minute, modified_at, parquet_rows, read_object, size


def quarantine_items(settings: Settings) -> list[Item]:
    """Rows set aside per gate."""
    folder = settings.workspace.quarantine
    gates = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    if not gates:
        return [Item("rows set aside", "0")]
    return [Item(gate.name, f"{parquet_rows(gate):,} rows at {gate}", "info") for gate in gates]


def journal_items(settings: Settings) -> list[Item]:
    """Events posted over HTTP that wait for compaction."""
    path = settings.workspace.journal
    if not path.exists():
        return [Item("events posted", "0")]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM events").fetchone()
    return [Item("events posted", f"{count:,}, last write {minute(modified_at(path))} by the wall clock")]


def evaluation_items(settings: Settings) -> list[Item]:
    """The last closed-loop evaluation's headline."""
    path = settings.workspace.reports / "closed_loop.json"
    if not path.exists():
        return [Item("closed loop", "not made yet", "missing", "make evaluate")]
    found = read_object(path)
    gains = {policy["policy"]: policy["gain"] for policy in found["policies"]}
    if not found["has_headroom"] or "funnel" not in gains:
        return [Item("closed loop", "no headroom in this world", "info")]
    shown = ", ".join(
        f"{n} {gains[n]['mean']:.3f} ± {gains[n]['sd']:.3f}" for n in ("funnel", "popularity") if n in gains
    )
    return [Item("closed loop", f"gain of {shown}; {minute(modified_at(path))} by the wall clock")]


def skew_items(settings: Settings) -> list[Item]:
    """The last skew audit's verdict."""
    path = settings.workspace.reports / "skew.json"
    if not path.exists():
        return [Item("skew", "not measured yet", "missing", "make skew")]
    found = read_object(path)
    text = (
        f"{found['share']:.3%} of {found['num_values']:,} values differ, {found['causes']['unexplained']:,} without a "
        f"cause; {minute(modified_at(path))} by the wall clock"
    )
    return [Item("skew", text) if found["ok"] else Item("skew", text, "degraded", "make skew")]


def disk_items(settings: Settings) -> list[Item]:
    """Bytes per folder of the workspace, greatest first, and their sum."""
    root = settings.workspace.root
    if not root.is_dir():
        return [Item("workspace", "not made yet", "missing", "make data")]
    used: Counter[str] = Counter()
    for path in root.iterdir():
        used[path.name.removesuffix("-wal").removesuffix("-shm")] += folder_bytes(path)
    ordered = sorted(used.items(), key=lambda entry: -entry[1])
    text = ", ".join(f"{name} {size(num_bytes)}" for name, num_bytes in ordered[:10] if num_bytes)
    return [Item("total", size(sum(used.values())), "info"), Item("folders", text or "empty", "info")]


def gate_items(settings: Settings) -> list[Item]:
    """The last word of every validation gate."""
    path = settings.workspace.docs / "gates.json"
    if not path.exists():
        return [Item("gates", "not made yet", "missing", "make validate")]
    return [_gate(name, dict(found)) for name, found in sorted(read_object(path).items())]


def _gate(name: str, found: dict[str, Any]) -> Item:
    at = minute(datetime.fromisoformat(str(found["ran_at"])))
    text = (
        f"{found['status']}, {found['num_rows']:,} rows, {found['num_quarantined']:,} set aside, {at} by the wall clock"
    )
    if found["status"] == "passed":
        return Item(name, text)
    return Item(name, f"{text}: {found.get('refusal')}", "degraded", f"see {found.get('docs', 'index.html')} in docs/")
