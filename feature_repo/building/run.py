"""Computing the planned hours: views into staged partitions, state into files, and in the end all made visible."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import duckdb

from core.workspace import Workspace
from events.read import register_log
from feature_repo.building.hours import FIRST_HOUR, Span, published
from feature_repo.building.lanes import call_in_lanes
from feature_repo.building.log_index import EVENTS_PER_STEP, events_per_day, files_of_span
from feature_repo.building.partitions import StagedView
from feature_repo.building.pipelines import Group, Pipeline
from feature_repo.building.plan import Plan
from feature_repo.building.sql import Render, Templates
from feature_repo.building.state import (
    MAX_CHECKPOINTS,
    BuildRecord,
    Checkpoint,
    StoredState,
    forget,
    kept_checkpoints,
    state_folder,
    usable_checkpoints,
)
from feature_repo.catalog import VIEWS
from feature_repo.stores.duckdb_engine import num_threads

HOURS_OF_NEXT = 2
"""Hours that a build of the next one computes at most: of profiles, also the one before, published since."""

LANES = 2
"""Lines of work of an hour computed at once; one where DuckDB has one thread."""

OnView = Callable[[str, int, float], None]
"""Told of each view that was computed, from any thread, one at a time: name, rows to be written, seconds."""


class Run:
    """One build under way. `record` is what the build will leave; `commit` completes it."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        workspace: Workspace,
        templates: Templates,
        record: BuildRecord,
        plan: Plan,
    ) -> None:
        self._connection = connection
        self._workspace = workspace
        self._templates = templates
        self._record = record
        self._plan = plan
        self._shared: dict[Group, Span] = {}
        self._sharing, self._reporting = threading.Lock(), threading.Lock()
        num_events = events_per_day(record.logs)
        self._days_per_step = max(1, EVENTS_PER_STEP // num_events)
        is_small = num_events < 24 * EVENTS_PER_STEP and all(
            span.num_hours <= HOURS_OF_NEXT and self._reached(group, span) == span.first - 1
            for group, span in plan.spans.items()
        )
        self._num_lanes = min(LANES, num_threads(connection)) if is_small else 1
        if is_small:  # sharing a statement of it between threads, reading included, costs more than it saves
            connection.execute("SET threads = 1; SET GLOBAL disable_parquet_prefetching = true")
        connection.execute(f"SET GLOBAL parquet_metadata_cache = {str(is_small).lower()}")
        self._written: dict[Group, dict[str, str]] = {}
        self.staged: dict[str, StagedView] = {}
        self.seconds: dict[str, float] = {}

    def compute(self, pipelines: Sequence[Pipeline], on_view: OnView) -> None:
        """Stages the planned rows of all views and writes the state as of the new checkpoint.

        A small hour is mostly planning and small files, each the work of one thread: so its lines of work run side by
        side, each in one thread, where none has to continue an older state first.
        """
        calls = [partial(self._compute_and_report, pipeline, on_view) for pipeline in pipelines]
        call_in_lanes(self._connection, calls, self._num_lanes)

    def _compute_and_report(self, pipeline: Pipeline, on_view: OnView, connection: duckdb.DuckDBPyConnection) -> None:
        started = time.monotonic()
        self._compute(connection, pipeline)
        for view in pipeline.views:
            self.seconds[view] = round((time.monotonic() - started) / len(pipeline.views), 2)
            with self._reporting:
                on_view(view, self.staged[view].num_staged if view in self.staged else 0, self.seconds[view])

    def _compute(self, connection: duckdb.DuckDBPyConnection, pipeline: Pipeline) -> None:
        span = self._plan.spans.get(pipeline.group)
        if span is None:
            return
        for view in pipeline.views:
            self._open(view, span)
        usable, reached = self._usable(pipeline.group, span), self._reached(pipeline.group, span)
        is_behind = reached < span.first - 1
        if not is_behind:  # first of all, as another lane may be waiting for it
            self._share(connection, pipeline, span)
        states = self._load(connection, pipeline, usable, is_table=is_behind or self._is_base(span, usable))
        if is_behind:
            between = Span(reached + 1, span.first - 1, span.first - 1, published(span.first - 1))
            self._advance(connection, pipeline, between, states, is_written=False)
        self._advance(connection, pipeline, span, states, is_written=True)
        if not self._plan.is_closed and span.checkpoint > reached and states and states[0].is_table:
            for state in states:
                state.write_base(self._state_file(pipeline.group, state.table.name, span))

    def commit(self) -> None:
        """Makes the staged partitions visible and completes the record."""
        calls = [partial(self._commit_view, staged) for staged in self.staged.values()]
        call_in_lanes(self._connection, calls, self._num_lanes)
        if self._plan.is_closed:
            return
        for group, span in self._plan.spans.items():
            usable, reached = self._usable(group, span), self._reached(group, span)
            earlier = self._earlier(group, span)
            if span.checkpoint > reached:
                files = self._written.get(group, {})
                earlier = [*earlier, Checkpoint(span.checkpoint, self._is_base(span, usable), files)]
            self._record.checkpoints[group] = kept_checkpoints(earlier)

    def _commit_view(self, staged: StagedView, connection: duckdb.DuckDBPyConnection) -> None:
        if self._plan.is_whole:
            staged.commit_whole()
        else:
            staged.commit_days(connection)
        self._record.rows[staged.view.name] = staged.num_rows

    def _earlier(self, group: Group, span: Span) -> list[Checkpoint]:
        return [] if span.is_whole else [c for c in self._record.checkpoints[group] if c.as_of < span.first]

    def _usable(self, group: Group, span: Span) -> list[Checkpoint]:
        return usable_checkpoints(self._earlier(group, span), span.first - 1)

    def _reached(self, group: Group, span: Span) -> int:
        usable = self._usable(group, span)
        return usable[-1].as_of if usable else FIRST_HOUR - 1

    def _is_base(self, span: Span, usable: list[Checkpoint]) -> bool:
        """Whether the state is written anew: always the same for all tables of a group."""
        is_long = len(self._steps(span)) > 1
        is_behind = not usable or usable[-1].as_of < span.first - 1
        return is_long or is_behind or len(usable) > MAX_CHECKPOINTS

    def _steps(self, span: Span) -> list[Span]:
        if span.num_hours <= HOURS_OF_NEXT:  # one step over midnight too: several would write a new base
            return [span]
        return list(span.steps(self._record.first_day, self._days_per_step))

    def _open(self, view: str, span: Span) -> None:
        staged = StagedView(
            VIEWS[view],
            self._workspace.features / view,
            self._record.first_day,
            span.known_after,
            span.until,
            dict(self._record.rows.get(view, {})),
        )
        staged.clear()
        self.staged[view] = staged

    def _load(
        self, connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, usable: list[Checkpoint], is_table: bool
    ) -> list[StoredState]:
        folder = state_folder(self._workspace)
        states = []
        for table in pipeline.tables:
            files = [folder / table.name / c.files[table.name] for c in usable if table.name in c.files]
            states.append(StoredState(connection, table, files, is_table))
        return states

    def _advance(
        self,
        connection: duckdb.DuckDBPyConnection,
        pipeline: Pipeline,
        span: Span,
        states: list[StoredState],
        *,
        is_written: bool,
    ) -> None:
        """Takes the state through the span, day by day, staging the rows where they are written."""
        self._prepare(connection, pipeline, span)
        for step in self._steps(span):
            render = self._templates.for_span(step, is_alone=span.is_hour)
            for template in pipeline.alone if pipeline.alone and span.is_hour else pipeline.step:
                connection.execute(render(template, **pipeline.parameters))
            if is_written:
                for view, template in pipeline.views.items():
                    query = render(template, **pipeline.parameters)
                    self.staged[view].stage(connection, query, step, pipeline.group == "hourly")
            self._keep(connection, pipeline, step, states, render, span)
        if is_written and self._plan.is_whole:
            for view, template in pipeline.views.items():
                self.staged[view].fill(connection, render(template, **pipeline.parameters))

    def _prepare(self, connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, span: Span) -> None:
        render = self._templates.for_span(span, is_alone=span.is_hour)
        self._share(connection, pipeline, span)
        for template in () if pipeline.alone and span.is_hour else pipeline.prepare:
            connection.execute(render(template, **pipeline.parameters))

    def _share(self, connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, span: Span) -> None:
        """What the lines of one group share, made by the first of them."""
        with self._sharing:
            if self._shared.get(pipeline.group) != span:
                self._read_log(connection, pipeline, span)
                self._shared[pipeline.group] = span

    def _read_log(self, connection: duckdb.DuckDBPyConnection, pipeline: Pipeline, span: Span) -> None:
        render = self._templates.for_span(span)
        files = files_of_span(self._record.logs, span, self._workspace.log)
        register_log(connection, self._workspace.log, {table: files[table] for table in pipeline.reads})
        if pipeline.group == "hourly":
            for name in ("impression_hours", "engagement_hours"):
                forget(connection, name)
            connection.execute(render("events"))
            if span.is_hour:
                connection.execute(render("moves"))

    def _keep(
        self,
        connection: duckdb.DuckDBPyConnection,
        pipeline: Pipeline,
        step: Span,
        states: list[StoredState],
        render: Render,
        span: Span,
    ) -> None:
        """Puts what the step changed into the state, as of the step's checkpoint."""
        if step.checkpoint < step.first:
            return
        changes = [(state, render(state.table.template, **pipeline.parameters)) for state in states]
        if states and not states[0].is_table:  # the only step
            if not self._plan.is_closed:
                for state, query in changes:
                    file = self._state_file(pipeline.group, state.table.name, span)
                    if state.write_change(query, file) == 0:  # the next hours need not open it
                        file.unlink()
                        del self._written[pipeline.group][state.table.name]
            return
        for state, query in changes:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE change_{state.table.name} AS {query}")
        for state, _ in changes:
            state.apply(f"change_{state.table.name}")

    def _state_file(self, group: Group, table: str, span: Span) -> Path:
        folder = state_folder(self._workspace) / table
        names = (f"as_of_{span.checkpoint}-{number}.parquet" for number in itertools.count())
        name = next(n for n in names if not (folder / n).exists())
        self._written.setdefault(group, {})[table] = name
        return folder / name
