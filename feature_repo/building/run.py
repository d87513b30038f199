"""Computing the planned hours: views into staged partitions, state into files, and in the end all made visible."""

import itertools
from pathlib import Path

import duckdb

from core.workspace import Workspace
from events.read import register_log
from feature_repo.building.hours import FIRST_HOUR, Span, published
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
        self._prepared: tuple[Group, Span] | None = None
        num_events = events_per_day(record.logs)
        self._days_per_step = max(1, EVENTS_PER_STEP // num_events)
        is_small = num_events < 24 * EVENTS_PER_STEP and all(span.is_hour for span in plan.spans.values())
        if is_small:  # sharing such an hour between threads costs more than it saves
            connection.execute("SET threads = 1")
        connection.execute(f"SET parquet_metadata_cache = {str(is_small).lower()}")
        self._written: dict[Group, dict[str, str]] = {}
        self.staged: dict[str, StagedView] = {}

    def compute(self, pipeline: Pipeline) -> None:
        """Stages the planned rows of the pipeline's views and writes its state as of the new checkpoint."""
        span = self._plan.spans.get(pipeline.group)
        if span is None:
            return
        for view in pipeline.views:
            self._open(view, span)
        usable = self._usable(pipeline.group, span)
        reached = usable[-1].as_of if usable else FIRST_HOUR - 1
        is_behind = reached < span.first - 1
        states = self._load(pipeline, usable, is_table=is_behind or self._is_base(span, usable))
        if is_behind:
            between = Span(reached + 1, span.first - 1, span.first - 1, published(span.first - 1))
            self._advance(pipeline, between, states, is_written=False)
        self._advance(pipeline, span, states, is_written=True)
        if not self._plan.is_closed and span.checkpoint > reached and states and states[0].is_table:
            for state in states:
                state.write_base(self._state_file(pipeline.group, state.table.name, span))

    def commit(self) -> None:
        """Makes the staged partitions visible and completes the record."""
        for staged in self.staged.values():
            if self._plan.is_whole:
                staged.commit_whole()
            else:
                staged.commit_days(self._connection)
            self._record.rows[staged.view.name] = staged.num_rows
        if self._plan.is_closed:
            return
        for group, span in self._plan.spans.items():
            usable = self._usable(group, span)
            reached = usable[-1].as_of if usable else FIRST_HOUR - 1
            earlier = self._earlier(group, span)
            if span.checkpoint > reached:
                files = self._written.get(group, {})
                earlier = [*earlier, Checkpoint(span.checkpoint, self._is_base(span, usable), files)]
            self._record.checkpoints[group] = kept_checkpoints(earlier)

    def _earlier(self, group: Group, span: Span) -> list[Checkpoint]:
        return [] if span.is_whole else [c for c in self._record.checkpoints[group] if c.as_of < span.first]

    def _usable(self, group: Group, span: Span) -> list[Checkpoint]:
        return usable_checkpoints(self._earlier(group, span), span.first - 1)

    def _is_base(self, span: Span, usable: list[Checkpoint]) -> bool:
        """Whether the state is written anew: always the same for all tables of a group."""
        is_long = len(self._steps(span)) > 1
        is_behind = not usable or usable[-1].as_of < span.first - 1
        return is_long or is_behind or len(usable) > MAX_CHECKPOINTS

    def _steps(self, span: Span) -> list[Span]:
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

    def _load(self, pipeline: Pipeline, usable: list[Checkpoint], is_table: bool) -> list[StoredState]:
        folder = state_folder(self._workspace)
        states = []
        for table in pipeline.tables:
            files = [folder / table.name / c.files[table.name] for c in usable if table.name in c.files]
            states.append(StoredState(self._connection, table, files, is_table))
        return states

    def _advance(self, pipeline: Pipeline, span: Span, states: list[StoredState], *, is_written: bool) -> None:
        """Takes the state through the span, day by day, staging the rows where they are written."""
        self._prepare(pipeline, span)
        for step in self._steps(span):
            render = self._templates.for_span(step, is_alone=span.is_hour)
            for template in pipeline.alone if pipeline.alone and span.is_hour else pipeline.step:
                self._connection.execute(render(template, **pipeline.parameters))
            if is_written:
                for view, template in pipeline.views.items():
                    query = render(template, **pipeline.parameters)
                    self.staged[view].stage(self._connection, query, step, pipeline.group == "hourly")
            self._keep(pipeline, step, states, render, span)
        if is_written and self._plan.is_whole:
            for view, template in pipeline.views.items():
                self.staged[view].fill(self._connection, render(template, **pipeline.parameters))

    def _prepare(self, pipeline: Pipeline, span: Span) -> None:
        render = self._templates.for_span(span, is_alone=span.is_hour)
        if self._prepared != (pipeline.group, span):
            files = files_of_span(self._record.logs, span, self._workspace.log)
            register_log(self._connection, self._workspace.log, {table: files[table] for table in pipeline.reads})
            if pipeline.group == "hourly":
                for name in ("impression_hours", "engagement_hours"):
                    forget(self._connection, name)
                self._connection.execute(render("events"))
                if span.is_hour:
                    self._connection.execute(render("moves"))
            self._prepared = (pipeline.group, span)
        for template in () if pipeline.alone and span.is_hour else pipeline.prepare:
            self._connection.execute(render(template, **pipeline.parameters))

    def _keep(self, pipeline: Pipeline, step: Span, states: list[StoredState], render: Render, span: Span) -> None:
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
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE change_{state.table.name} AS {query}")
        for state, _ in changes:
            state.apply(f"change_{state.table.name}")

    def _state_file(self, group: Group, table: str, span: Span) -> Path:
        folder = state_folder(self._workspace) / table
        names = (f"as_of_{span.checkpoint}-{number}.parquet" for number in itertools.count())
        name = next(n for n in names if not (folder / n).exists())
        self._written.setdefault(group, {})[table] = name
        return folder / name
