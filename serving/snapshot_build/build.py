"""Builds the snapshot from the log."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import duckdb

from core.files import content_hash
from core.settings import Settings
from core.workspace import DatasetManifest
from events.compact import journal_place
from events.read import connect, register_log
from serving.snapshot import Snapshot
from serving.snapshot_build.arrow import column_of
from serving.snapshot_build.lists import read_lists
from serving.snapshot_build.people import read_entities, read_users, sample_users
from serving.snapshot_build.posts import read_catalogue
from serving.snapshot_build.tables import stage_tables

Report = Callable[[str], None]


def build_snapshot(
    settings: Settings, value_weights: Mapping[str, float], report: Report = lambda step: None
) -> Snapshot:
    """The snapshot of everything known by the end of the data; `value_weights` say what an engagement is worth."""
    manifest = settings.workspace.manifest()
    # Read before the tables: what comes in between is replayed from the journal once more, which changes nothing.
    place = journal_place(settings.workspace.log)
    connection = connect(settings)
    try:
        register_log(connection, settings.workspace.log)
        as_of = _as_of(connection, manifest)
        report("reading engagements")
        stage_tables(connection, as_of, value_weights)
        report("catalogue")
        catalogue, post_texts, creator_texts = read_catalogue(connection)
        report("lists")
        lists = read_lists(connection, catalogue)
        report("users")
        users = read_users(connection, catalogue, as_of)
        entities = read_entities(connection, catalogue)
        samples = sample_users(connection)
        # Rows without a time of their own were rebuilt from elsewhere; their surface is not one to ask for.
        surfaces = tuple(
            column_of(
                connection,
                """
            SELECT surface FROM impressions WHERE NOT coalesce(is_time_imputed, false)
            GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 50
        """,
            )
        )
    finally:
        connection.close()
    draft = Snapshot(
        "", as_of, manifest.data_version, catalogue, lists, users, samples, surfaces,
        _topic_names(manifest), post_texts, creator_texts, entities, place,
    )  # fmt: skip
    identity = [
        manifest.data_version,
        repr(as_of),
        repr(sorted(value_weights.items())),
        str(len(catalogue)),
        str(place),
    ]
    return replace(draft, snapshot_id=content_hash(identity))


def _as_of(connection: duckdb.DuckDBPyConnection, manifest: DatasetManifest) -> float:
    if manifest.anchor_at is not None:
        return manifest.anchor_at.timestamp()
    newest = column_of(
        connection,
        "SELECT epoch(max(known_at)) FROM (SELECT known_at FROM impressions UNION ALL SELECT known_at FROM posts"
        " UNION ALL SELECT known_at FROM users UNION ALL SELECT known_at FROM creators)",
    )[0]
    return manifest.last_event_at.timestamp() if newest is None else float(newest)


def _topic_names(manifest: DatasetManifest) -> dict[int, str]:
    """Names by topic id where the data set declares them as `topic_names`, a list or a mapping."""
    declared = manifest.config.get("topic_names")
    if isinstance(declared, list):
        return {topic: str(name) for topic, name in enumerate(declared)}
    if isinstance(declared, dict):
        return {int(topic): str(name) for topic, name in declared.items()}
    return {}
