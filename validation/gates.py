"""The gates of the stages: what is put before which suite, in which order."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import duckdb

from core.clock import Clock
from core.errors import GateError, MissingStageError
from core.schema import TABLES
from core.settings import Settings
from core.workspace import Workspace
from events.log import count_rows
from events.read import connect, register_log
from feature_repo.catalog import EXPORTED_VIEWS, VIEWS
from validation.drift import DriftReport, Profile, accept, compare, read_accepted, view_profiles
from validation.drift_page import publish_drift
from validation.feature_subjects import by_day_sql, newest_source_sql, view_key, view_sql
from validation.gate import Told, opened, silent
from validation.leakage import PROBED_ROWS, require_no_leak
from validation.log_subjects import events_by_day_sql, log_sql
from validation.report import SuiteReport
from validation.subjects import columns_frame, no_rows, number_copies, pandas_frame, subject
from validation.suites.events import REQUIRED_TABLES, columns_suite, events_by_day, log_suites, log_types
from validation.suites.features import features_by_day, view_suite, view_types
from validation.suites.training_sets import training_set_suite
from validation.tables import Table
from validation.training_rows import TrainingRows, load_training_rows, probe, training_frame

MOST_LOG_ROWS = 3_000_000
"""A log table up to this size is judged whole; of a larger one, every suspect row and an even sample."""

MOST_FEATURE_ROWS = 20_000
"""The same for feature tables, which are wide: a judged row costs some eighty columns."""

MOST_TRAINING_ROWS = 20_000
"""Rows of a training set that are judged, evenly spread over its time."""


def check_events(settings: Settings, clock: Clock, told: Told = silent) -> list[SuiteReport]:
    """Reports of the log's suites after the bad rows went to quarantine.

    Raises GateError when a table cannot be used, MissingStageError before any data was made or imported.
    """
    workspace = settings.workspace
    end_at = workspace.manifest().anchor_at or clock.now()
    connection = connect(settings)
    try:
        with opened("events", workspace, clock, told) as gate:
            present = [table for name in log_suites(end_at) if (table := Table.at(name, workspace.log / name)).files]
            gate.require(columns_suite("events"), columns_frame([(table, log_types(table.name)) for table in present]))
            register_log(connection, workspace.log)
            for name, suite in log_suites(end_at).items():
                table = Table.at(name, workspace.log / name)
                if table.files:
                    has_copies = number_copies(connection, table, TABLES[name].key)
                    sql = log_sql(table, suite.columns(), has_copies)
                    gate.clean(suite, subject(connection, table, suite, sql, MOST_LOG_ROWS))
                elif name in REQUIRED_TABLES:
                    gate.clean(suite, no_rows(table, suite))
            register_log(connection, workspace.log)
            gate.require(events_by_day(), pandas_frame(connection.sql(events_by_day_sql()).to_arrow_table()))
    finally:
        connection.close()
    if any(report.num_quarantined for report in gate.reports):
        manifest = workspace.manifest()
        workspace.write_manifest(replace(manifest, rows=manifest.rows | count_rows(workspace.log)))
    return gate.reports


def check_features(settings: Settings, clock: Clock, told: Told = silent) -> list[SuiteReport]:
    """Reports of the feature tables' suites after the bad rows went to quarantine.

    Raises GateError when a table cannot be used, MissingStageError before features were built.
    """
    workspace = settings.workspace
    manifest = workspace.manifest()
    end_at, first_at = manifest.anchor_at or clock.now(), manifest.first_event_at
    tables = _feature_tables(workspace)
    connection = connect(settings)
    try:
        register_log(connection, workspace.log)
        with opened("features", workspace, clock, told) as gate:
            declared = [(table, view_types(VIEWS[name])) for name, table in tables.items()]
            gate.require(columns_suite("features"), columns_frame(declared))
            for name, table in tables.items():
                suite = view_suite(VIEWS[name], end_at)
                has_copies = number_copies(connection, table, view_key(VIEWS[name]))
                sql = view_sql(VIEWS[name], table, suite.columns(), has_copies)
                if gate.clean(suite, subject(connection, table, suite, sql, MOST_FEATURE_ROWS)):
                    table = Table.at(name, table.folder)
                (source_at,) = connection.execute(newest_source_sql(VIEWS[name], end_at)).fetchall()[0]
                days = features_by_day(VIEWS[name], end_at, source_at)
                profiles = by_day_sql(table, days.columns(), first_at)
                gate.require(days, pandas_frame(connection.sql(profiles).to_arrow_table()))
            for name in EXPORTED_VIEWS:
                table = Table.at(name, workspace.features / name)
                if table.num_rows:
                    suite = view_suite(EXPORTED_VIEWS[name], end_at)
                    has_copies = number_copies(connection, table, view_key(EXPORTED_VIEWS[name]))
                    sql = view_sql(EXPORTED_VIEWS[name], table, suite.columns(), has_copies)
                    gate.clean(suite, subject(connection, table, suite, sql, MOST_FEATURE_ROWS))
            told("drift")
            gate.drift = _accepted_drift(connection, workspace, end_at)
    finally:
        connection.close()
    return gate.reports


def _accepted_drift(connection: duckdb.DuckDBPyConnection, workspace: Workspace, end_at: datetime) -> dict[str, Any]:
    """Sum of how far features moved since the last accepted build; this build is then the accepted one."""
    accepted_until, accepted = read_accepted(workspace.docs)
    fresh: dict[str, Profile] = {}
    now: dict[str, Profile] = {}
    for name, table in _feature_tables(workspace).items():
        own, comparable = view_profiles(connection, VIEWS[name], table, end_at, accepted)
        fresh, now = fresh | own, now | comparable
    report = DriftReport(end_at, accepted_until, tuple(compare(accepted, now)))
    publish_drift(workspace, report)
    accept(workspace.docs, end_at, fresh)
    return report.summary()


def check_training_set(
    settings: Settings, clock: Clock, name: str, told: Told = silent, rows: TrainingRows | None = None
) -> list[SuiteReport]:
    """Reports of the training set's suite; `rows` stands in for the files of `training_sets/<name>/`.

    Raises GateError when the set cannot be learned from, LeakError when it holds a value that was not known
    at its use, MissingStageError before it was built.
    """
    workspace = settings.workspace
    manifest = workspace.manifest()
    rows = load_training_rows(workspace.training_sets / name) if rows is None else rows
    end_at = manifest.anchor_at or clock.now()
    span = (manifest.first_event_at.timestamp(), end_at.timestamp())
    connection = connect(settings)
    try:
        with opened(f"training_set_{name}", workspace, clock, told) as gate:
            suite = training_set_suite(name, rows.columns, rows.is_labelled, span)
            gate.require(suite, training_frame(rows, MOST_TRAINING_ROWS), num_rows=len(rows))
            told("leakage")
            require_no_leak(connection, workspace, probe(rows, PROBED_ROWS))
    finally:
        connection.close()
    return gate.reports


def training_set_names(workspace: Workspace) -> list[str]:
    """Names of the training sets that were built."""
    return sorted(path.parent.name for path in workspace.training_sets.glob("*/manifest.json"))


def _feature_tables(workspace: Workspace) -> dict[str, Table]:
    """Every declared feature table. Raises MissingStageError when none was built, GateError when some are missing."""
    tables = {name: Table.at(name, workspace.features / name) for name in VIEWS}
    missing = [name for name, table in tables.items() if not table.files]
    if len(missing) == len(tables):
        raise MissingStageError("feature tables", workspace.features, "python -m feature_repo build")
    if missing:
        raise GateError(
            f"gate features: no Parquet files for {', '.join(missing)} in {workspace.features}; "
            "expected one table per view of feature_repo/catalog.py; run `python -m feature_repo build` again"
        )
    return tables
