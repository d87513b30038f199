"""From the journal to the log: what was served and posted over HTTP becomes rows that features and training read.

Safe to stop anywhere and to run again: rows keep their ids, the log admits each once, and the place up to which
the journal is in the log is written last, inside the log, so that a replaced log takes the journal anew.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from core.files import write_atomically
from core.schema import ENGAGEMENT_KINDS, TABLES
from core.workspace import Workspace
from events.journal import IMPRESSION, UNBLOCK, UNFOLLOW, UNHIDE, WRITE_KINDS, Journal, JournalEvent
from events.lock import exclusive
from events.log import JOURNAL_PLACE, REQUESTS_UNTIL, append, count_rows
from events.quarantine import quarantine
from events.served import ServedLog, ServedPage
from events.writes import written_rows, written_users

GATE = "journal"
KEEP = timedelta(days=90)
"""How long the journal keeps what the log holds too; what users asked of their feed it keeps for good."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_AHEAD = timedelta(minutes=5)
"""How far an event may lie ahead of its arrival: phones' clocks are a little off."""


@dataclass(frozen=True)
class CompactReport:
    """What one compaction moved: journal events read, rows written per table, events refused."""

    num_events: int
    num_written: dict[str, int]
    num_refused: int


def compact(workspace: Workspace, batch: int = 50_000) -> CompactReport:
    """A report of moving every new journal event, and every request served since, into the log.

    What lies in the log and is older than anything serving asks the journal for leaves the journal.
    """
    written: dict[str, int] = {}
    num_events = num_refused = 0
    if workspace.served.exists():
        written |= _move_requests(workspace, batch)
    if not workspace.journal.exists():
        return CompactReport(0, written, 0)
    with exclusive(workspace.log.parent, workspace.log.name), Journal(workspace.journal) as journal:
        while rows := journal.since(journal_place(workspace.log), batch):
            events = _with_creators(workspace.log, [event for _, event in rows])
            reasons = _reasons(journal, events)
            taken = [event for event, reason in zip(events, reasons, strict=True) if reason is None]
            num_refused += _quarantine(workspace, events, reasons)
            for table, columns in _tables(workspace.log, taken).items():
                report = append(workspace.log, table, columns, source="journal")
                written[table] = written.get(table, 0) + report.num_written
            place = rows[-1][0]
            _advance_manifest(workspace, taken, place)
            write_atomically(workspace.log / JOURNAL_PLACE, json.dumps({"place": place}))
            num_events += len(rows)
        if num_events:
            journal.prune(journal_place(workspace.log), KEEP)
    return CompactReport(num_events, written, num_refused)


def _move_requests(workspace: Workspace, batch: int) -> dict[str, int]:
    """Rows written to `requests`: one per served page that the log does not hold yet."""
    mark = workspace.log / REQUESTS_UNTIL
    since = datetime.fromisoformat(json.loads(mark.read_text())["until"]) if mark.exists() else EPOCH
    num_written = 0
    with exclusive(workspace.log.parent, workspace.log.name), closing(ServedLog(workspace.served)) as served:
        # Several servers write, so a page may arrive a little after a later one; the log drops what it has.
        after = (max(since - MAX_AHEAD, EPOCH), 0)
        while pages := served.pages_after(after, batch):
            num_written += append(workspace.log, "requests", _requests(pages), source="journal").num_written
            after = (pages[-1].requested_at, pages[-1].request_id)
        write_atomically(mark, json.dumps({"until": max(since, after[0]).isoformat()}))
    return {"requests": num_written} if num_written else {}


def _requests(pages: Sequence[ServedPage]) -> pa.Table:
    """Pages as rows of `requests`; the visit is the session."""
    given = {
        "session_id": [page.visit_id for page in pages],
        "event_at": [page.requested_at for page in pages],
        "known_at": [page.requested_at for page in pages],
    }
    schema = TABLES["requests"].arrow
    columns = {name: given.get(name) or [getattr(page, name) for page in pages] for name in schema.names}
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in schema}, schema=schema)


def journal_place(log_root: Path) -> int:
    """The place of the last journal event that is in this log, 0 for none."""
    path = log_root / JOURNAL_PLACE
    return int(json.loads(path.read_text())["place"]) if path.exists() else 0


def _with_creators(log_root: Path, events: Sequence[JournalEvent]) -> list[JournalEvent]:
    """The events, each with its post's creator where the sender left it out and the log knows it."""
    wanted = {e.post_id for e in events if e.creator_id is None and e.post_id is not None}
    creator_of = _lookup(log_root, "posts", "post_id", "creator_id", wanted)
    creator_of |= {e.entity_id: e.creator_id for e in events if e.kind == "put_post" and e.creator_id is not None}
    return [
        replace(e, creator_id=creator_of.get(e.post_id)) if e.creator_id is None and e.post_id is not None else e
        for e in events
    ]


def _reasons(journal: Journal, events: Sequence[JournalEvent]) -> list[str | None]:
    """Why each event cannot enter the log, None where it can."""
    shown_at = journal.impression_times([e.impression_id for e in events if e.impression_id is not None])
    return [_reason(e, shown_at.get(e.impression_id) if e.impression_id else None) for e in events]


def _reason(event: JournalEvent, shown_at: datetime | None) -> str | None:
    if event.kind in (*WRITE_KINDS, UNHIDE, UNBLOCK):
        return None  # a write names what it is about; a wish taken back lives in the journal alone
    if event.creator_id is None:
        return "post_id: not in posts, so the creator is unknown"
    if event.event_at > event.received_at + MAX_AHEAD:
        return "event_at: in the future of its arrival"
    if shown_at is not None and event.event_at < shown_at:
        return "event_at: engagement before its impression"
    return None


def _quarantine(workspace: Workspace, events: Sequence[JournalEvent], reasons: Sequence[str | None]) -> int:
    """How many events were refused; they are in the quarantine now."""
    refused = [(event, reason) for event, reason in zip(events, reasons, strict=True) if reason is not None]
    if refused:
        names = JournalEvent.__dataclass_fields__
        rows = pa.table({name: [_plain(getattr(event, name)) for event, _ in refused] for name in names})
        quarantine(workspace, GATE, rows, [reason for _, reason in refused])
    return len(refused)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _tables(log_root: Path, events: Sequence[JournalEvent]) -> dict[str, pa.Table]:
    """The events as rows of the log's tables; users the log has not met get a row without profile."""
    written, by_write = written_rows(log_root, events), written_users(events)
    events = [event for event in events if event.kind not in WRITE_KINDS]
    impressions = [e for e in events if e.kind == IMPRESSION]
    engagements = [e for e in events if e.kind in ENGAGEMENT_KINDS and e.post_id is not None]
    follows = [e for e in events if e.kind in ("follow", UNFOLLOW)]
    tables = {
        "users": _users(log_root, [event for event in events if event.user_id not in by_write]),
        "impressions": _impressions(impressions),
        "engagements": _engagements(engagements),
        "follows": _follows(follows),
    }
    if "users" in written:
        tables["users"] = pa.concat_tables([tables["users"], written.pop("users")])
    return {name: table for name, table in (written | tables).items() if table.num_rows}


def _users(log_root: Path, events: Sequence[JournalEvent]) -> pa.Table:
    first: dict[int, JournalEvent] = {}
    for event in events:
        first.setdefault(event.user_id, event)
    known = _lookup(log_root, "users", "user_id", "user_id", set(first))
    new = [event for user_id, event in first.items() if user_id not in known]
    return _rows("users", new, external_id=[str(e.user_id) for e in new], profile_codes=[[] for _ in new])


def _impressions(events: Sequence[JournalEvent]) -> pa.Table:
    return _rows(
        "impressions",
        events,
        sources=[list(e.sources) for e in events],
        is_time_imputed=[False] * len(events),
    )


def _engagements(events: Sequence[JournalEvent]) -> pa.Table:
    return _rows("engagements", events, is_time_imputed=[False] * len(events))


def _follows(events: Sequence[JournalEvent]) -> pa.Table:
    return _rows("follows", events, is_active=[e.kind != UNFOLLOW for e in events])


def _rows(table: str, events: Sequence[JournalEvent], **given: Sequence[object]) -> pa.Table:
    """The table's rows: given columns, else the event's field of that name, else null."""
    schema = TABLES[table].arrow
    values: dict[str, Sequence[object]] = {
        name: [getattr(event, name, None) for event in events] for name in schema.names
    }
    values["known_at"] = [max(event.event_at, event.received_at) for event in events]
    values.update(given)
    return pa.table({field.name: pa.array(values[field.name], field.type) for field in schema}, schema=schema)


def _lookup(log_root: Path, table: str, key: str, value: str, wanted: set[int]) -> dict[int, int]:
    """`value` by `key` for the wanted keys that the log's table holds; the row written last wins."""
    files = sorted((log_root / table).glob("day=*/*.parquet"))
    if not files or not wanted:
        return {}
    dataset = ds.dataset([str(file) for file in files], schema=TABLES[table].arrow)
    is_wanted = ds.field(key).isin(pa.array(sorted(wanted), pa.int64()))
    rows = dataset.to_table(columns={"key": ds.field(key), "value": ds.field(value)}, filter=is_wanted)
    return dict(zip(rows["key"].to_pylist(), rows["value"].to_pylist(), strict=True))


def _advance_manifest(workspace: Workspace, events: Sequence[JournalEvent], place: int) -> None:
    """Tells the dataset's new end and rows; an anchored clock moves on to the last event."""
    if not workspace.manifest_path.exists() or not events:
        return
    manifest = workspace.manifest()
    last = max(manifest.last_event_at, max(event.event_at for event in events))
    workspace.write_manifest(
        replace(
            manifest,
            data_version=f"{manifest.data_version.partition('+')[0]}+{place}",
            anchor_at=last if manifest.anchor_at is not None else None,
            first_event_at=min(manifest.first_event_at, min(event.event_at for event in events)),
            last_event_at=last,
            rows=manifest.rows | count_rows(workspace.log),
        )
    )
