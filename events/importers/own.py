"""The importer of a team's own data: CSV or Parquet files and a mapping become a dataset, or a dry run's report."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ConfigError, InputError
from core.files import content_hash, file_hash
from core.schema import ENGAGEMENT_KINDS
from core.workspace import Workspace
from events.importers import own_entities as entities
from events.importers import own_events as acts
from events.importers.batch import Batch, TimeFormat
from events.importers.dataset import ImportReport, InputReport, OnStage, Origin, write_dataset
from events.importers.keys import positions_in
from events.importers.mapping import Mapping, TableSpec
from events.importers.source_files import FILE, ROW, TextRows, read_text

KIND = "own"
MAPPING_VERSION = "1"
"""Part of the data version: raise it when the same files give other rows."""


_READ_ORDER = ("impressions", "engagements", "users", "creators", "posts", "follows")


def import_own(
    mapping_path: Path,
    data_dir: Path,
    workspace: Workspace,
    now: datetime,
    *,
    is_dry_run: bool = False,
    on_stage: OnStage = lambda _: None,
) -> ImportReport:
    """What was, or in a dry run would be, taken from the files into the workspace.

    Raises ConfigError for a wrong mapping and InputError for files that cannot be read or lack a column.
    """
    mapping = Mapping.load(mapping_path)
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; expected the files that {mapping_path} names")
    on_stage("read files")
    job = _OwnImport(mapping, data_dir, now)
    on_stage("map rows")
    tables = job.tables()
    reports = job.reports()
    if is_dry_run:
        return ImportReport(reports, {name: rows.num_rows for name, rows in tables.items()}, job.notes)
    files = [part for file in job.files for part in (file.name, file_hash(file))]
    origin = Origin(
        KIND,
        content_hash([MAPPING_VERSION, mapping.model_dump_json(), *files]),
        is_past=not mapping.is_live,
        config={
            "files": [file.name for file in job.files],
            "mapping": mapping.model_dump(mode="json", exclude_defaults=True),
            "refused": {report.table: report.refused.num_rows for report in reports},
            "notes": job.notes,
            "topic_names": job.topic_names(),
        },
    )
    manifest = write_dataset(workspace, origin, tables, reports, on_stage)
    return ImportReport(reports, manifest.rows, job.notes, manifest)


class _OwnImport:
    """One import in progress: its inputs under our names, and what was noticed."""

    def __init__(self, mapping: Mapping, data_dir: Path, now: datetime) -> None:
        self.now = now
        self.notes: list[str] = []
        self.files: list[Path] = []
        self._mapping = mapping
        self._batches = {
            table: self._read(data_dir, table, spec)
            for table in _READ_ORDER
            if (spec := getattr(mapping, table)) is not None
        }
        instants = {table: self._checked_instants(table) for table in ("impressions", "engagements", "follows")}
        self.known_from = self._known_from(instants["impressions"])

    def reports(self) -> list[InputReport]:
        """What became of each input table."""
        return [InputReport.of(batch) for batch in self._batches.values()]

    def topic_names(self) -> dict[str, str]:
        """The files' word for each topic id that is not simply that number."""
        posts = self._batches.get("posts")
        if posts is None or not posts.has("topic_id"):
            return {}
        texts = posts.texts("topic_id").unique().drop_null()
        ids = entities.to_internal(texts).to_pylist()
        return {str(topic): text for topic, text in zip(ids, texts.to_pylist(), strict=True) if str(topic) != text}

    def tables(self) -> dict[str, pa.Table]:
        """Every table of the log that the files give."""
        creators, posts = self._creators_and_posts()
        users = self._users()
        taken = acts.impressions(self._batches["impressions"], self._times("impressions"), self.now, users, posts)
        if posts is None:
            posts = self._posts_of_acts(taken)
            creators = self._with_bare_creators(creators, posts["external_id"].to_pylist(), is_pseudo=True)
        shown = posts["creator_id"].to_numpy()[positions_in(*(t["post_id"].to_numpy() for t in (taken, posts)))]
        engaged, kinds = self._engagements(users, posts, taken)
        engaged = pa.concat_tables([acts.labelled_engagements(taken, shown), engaged])
        tables = {
            "users": users,
            "creators": creators,
            "posts": posts,
            "follows": self._follows(users, creators, engaged),
            "requests": acts.request_rows(taken),
            "impressions": acts.impression_rows(taken, shown, kinds),
            "engagements": engaged,
        }
        return {name: rows for name, rows in tables.items() if rows.num_rows or name == "impressions"}

    def _read(self, data_dir: Path, table: str, spec: TableSpec) -> Batch:
        files = find_files(data_dir, table, spec)
        self.files += [file for file in files if file not in self.files]
        text = read_text(files, [*spec.columns.values(), *spec.codes, *spec.labels.values()])
        rows, num_left_out = to_our_names(text, spec)
        if num_left_out:
            self.notes.append(f"{table}: {num_left_out} rows left out, the mapping turns a value of theirs to null")
        return Batch(table, rows)

    def _times(self, table: str) -> TimeFormat:
        spec: TableSpec = getattr(self._mapping, table)
        return (spec.time or self._mapping.time).to_format()

    def _checked_instants(self, table: str) -> pa.Array | None:
        """When the table's rows happened, [N]; impossible instants are refused first, so they found no users."""
        batch = self._batches.get(table)
        if batch is None or not batch.has("event_at"):
            return None
        at = batch.instants("event_at", self._times(table), is_required=table != "follows")
        entities.refuse_impossible_times(batch, "event_at", at, self.now)
        return at

    def _known_from(self, shown_at: pa.Array) -> datetime:
        """The day before the first impression: the import brings what is known of users and posts as of then."""
        first = pc.min(shown_at.filter(pa.array(self._batches["impressions"].is_kept))).as_py()
        if first is None:
            return entities.EARLIEST
        midnight: datetime = first.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=1)

    def _users(self) -> pa.Table:
        batch = self._batches.get("users")
        if batch is not None:
            return entities.users(batch, self._times("users"), self.now, self.known_from)
        return entities.bare_users(self._texts("user_id", "impressions", "engagements", "follows"), self.known_from)

    def _creators_and_posts(self) -> tuple[pa.Table, pa.Table | None]:
        """Creators, and posts where they have files of their own."""
        batch, creators = self._batches.get("creators"), None
        if batch is not None:
            creators = entities.creators(batch, self._times("creators"), self.now, self.known_from)
        else:
            creators = entities.bare_creators(self._texts("creator_id", "follows"), self.known_from)
        posts_batch = self._batches.get("posts")
        if posts_batch is None:
            return creators, None
        known = set(creators["external_id"].to_pylist()) if batch is not None else None
        times = self._times("posts")
        posts, creator_texts = entities.posts(posts_batch, times, self.now, self.known_from, known)
        return self._with_bare_creators(creators, creator_texts.to_pylist(), is_pseudo=False), posts

    def _with_bare_creators(self, creators: pa.Table, texts: list[str], *, is_pseudo: bool) -> pa.Table:
        """The creators and those of posts that have no row yet."""
        wanted = set(entities.pseudo_creators(texts) if is_pseudo else texts)
        new = sorted(wanted - set(creators["external_id"].to_pylist()))
        return pa.concat_tables([creators, entities.bare_creators(new, self.known_from)])

    def _posts_of_acts(self, taken: pa.Table) -> pa.Table:
        """A row for each post that only impressions and engagements tell of."""
        seen = taken.group_by("post_text").aggregate([("event_at", "min")])
        rows = entities.bare_posts(seen["post_text"].to_pylist(), seen["event_at_min"].combine_chunks())
        unseen = sorted(set(self._texts("post_id", "engagements")) - set(seen["post_text"].to_pylist()))
        at = pa.repeat(pa.scalar(self.known_from, rows.schema.field("event_at").type), len(unseen))
        return pa.concat_tables([rows, entities.bare_posts(unseen, at)])

    def _engagements(self, users: pa.Table, posts: pa.Table, taken: pa.Table) -> tuple[pa.Table, set[str]]:
        """The rows of the engagements file, and the kinds that it records: those mapped to, else those found."""
        batch = self._batches.get("engagements")
        if batch is None:
            return acts.labelled_engagements(taken.slice(0, 0), taken["user_id"].slice(0, 0).to_numpy()), set()
        rows = acts.engagements(batch, self._times("engagements"), self.now, users, posts, taken)
        lone = rows["impression_id"].null_count
        if lone:
            self.notes.append(f"engagements: {lone} rows match no impression; taken as actions outside a feed")
        spec = self._mapping.engagements
        mapped = {str(kind) for kind in spec.values.get("kind", {}).values() if kind} if spec is not None else set()
        return rows, (mapped | set(rows["kind"].unique().to_pylist())) & set(ENGAGEMENT_KINDS)

    def _follows(self, users: pa.Table, creators: pa.Table, engaged: pa.Table) -> pa.Table:
        rows = acts.follows_of(engaged)
        batch = self._batches.get("follows")
        if batch is None:
            return rows
        given = acts.follows(batch, self._times("follows"), self.now, self.known_from, users, creators)
        return pa.concat_tables([given, rows])

    def _texts(self, column: str, *tables: str) -> list[str]:
        """Every outside id in the column of these tables' good rows, each once."""
        found: set[str] = set()
        for table in tables:
            batch = self._batches.get(table)
            if batch is not None and batch.has(column):
                texts = batch.texts(column, is_required=True)
                found |= set(texts.filter(pa.array(batch.is_kept)).unique().to_pylist())
        return sorted(found - {None})


def find_files(data_dir: Path, table: str, spec: TableSpec) -> list[Path]:
    """The table's files below the folder, in order of name. Raises InputError for a name that matches none."""
    files: list[Path] = []
    for name in spec.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ConfigError(f"{table}.file: {name!r} leaves the data folder; name files below it")
        matches = sorted(data_dir.glob(name)) if any(c in name for c in "*?[") else [data_dir / name]
        if not matches or not matches[0].exists():
            raise InputError(f"{data_dir / name}: no such file; the mapping's {table}.file names it")
        files += matches
    return files


def to_our_names(text: TextRows, spec: TableSpec) -> tuple[TextRows, int]:
    """The rows under our column names with constants and value maps applied, and how many rows those leave out."""
    rows = text.rows
    columns = {ours: _mapped(rows[theirs], spec.values.get(ours, {})) for ours, theirs in spec.columns.items()}
    for name, value in spec.constants.items():
        constant = pa.repeat(_as_text(value), rows.num_rows)
        columns[name] = pc.coalesce(columns[name], constant) if name in columns else constant
    columns |= {f"label:{kind}": rows[theirs] for kind, theirs in spec.labels.items()}
    columns |= {f"code:{theirs}": rows[theirs] for theirs in spec.codes}
    renamed = pa.table(columns | {FILE: rows[FILE], ROW: rows[ROW]})
    is_out = pa.repeat(False, rows.num_rows)
    for ours, values in spec.values.items():
        nulled = pa.array([theirs for theirs, value in values.items() if value is None], pa.string())
        if ours in spec.columns:
            is_out = pc.or_(is_out, pc.is_in(rows[spec.columns[ours]], nulled))
    return replace(text, rows=renamed.filter(pc.invert(is_out))), int(pc.sum(is_out).as_py() or 0)


def _mapped(texts: pa.ChunkedArray, values: dict[str, str | int | float | bool | None]) -> pa.ChunkedArray:
    """The texts with ours in the place of theirs; a text that the map does not name stays."""
    kept = {theirs: value for theirs, value in values.items() if value is not None}
    if not kept:
        return texts
    places = pc.index_in(texts, pa.array(list(kept), pa.string()))
    return pc.coalesce(pa.array([_as_text(value) for value in kept.values()], pa.string()).take(places), texts)


def _as_text(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
