"""Feast's batch engine that streams Arrow batches from the offline store into packed rows.

Memory holds a few batches, whatever the number of entities, when the offline store's job has
`to_record_batches(batch_rows)`; another store's table is held whole, as Feast holds it. A run that
was cut off is repeated as it is: the store keeps every row that is already there, and Feast records
the interval only of a run that came to its end.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.dag.context import ColumnInfo
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.utils import create_offline_store_retrieval_job
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _get_column_names, _validate_vector_field_lengths, make_tzaware
from pydantic import PositiveInt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from feature_repo.stores.packed.store import PackedOnlineStore

BATCH_ROWS = 20_000


class PackedEngineConfig(FeastConfigBaseModel):
    """Options of the engine in feature_store.yaml, under `batch_engine`."""

    type: Literal["feature_repo.stores.packed.engine.PackedEngine"] = "feature_repo.stores.packed.engine.PackedEngine"

    batch_rows: PositiveInt = BATCH_ROWS
    """Rows in memory at a time, a few times over."""

    show_progress: bool = True
    """A bar on a terminal."""


class PackedMaterialization(LocalMaterializationJob):
    """What became of one view: rows read, and rows that were newer than what the store held."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, MaterializationJobStatus.RUNNING)
        self.num_rows = 0
        self.num_written = 0

    def end(self, error: Exception | None = None) -> None:
        self._status = MaterializationJobStatus.ERROR if error else MaterializationJobStatus.SUCCEEDED
        self._error = error


class PackedEngine(LocalComputeEngine):
    """Materialises plain views into a PackedOnlineStore; everything else is left to Feast's local engine."""

    def __init__(self, batch_rows: int = BATCH_ROWS, show_progress: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._batch_rows = batch_rows
        self._show_progress = show_progress
        self.last: PackedMaterialization | None = None
        """The view materialised last."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        view = task.feature_view
        if not isinstance(self.online_store, PackedOnlineStore) or not _is_plain(view):
            return super()._materialize_one(registry, task, **kwargs)
        job = PackedMaterialization(f"{view.name}-{task.start_time}-{task.end_time}")
        self.last = job
        try:
            self._stream(registry, task, job)
        except Exception as error:  # Feast takes errors from the job
            job.end(error)
        else:
            job.end()
        return job

    def _stream(self, registry: BaseRegistry, task: MaterializationTask, job: PackedMaterialization) -> None:
        view = task.feature_view
        batches, num_rows = self._batches(registry, task)
        with _bar(self._show_progress) as progress:
            bar = progress.add_task(view.name, total=num_rows)
            for seen, written in self.online_store.write_arrow(self.repo_config, view, batches):
                job.num_rows += seen
                job.num_written += written
                progress.update(bar, completed=job.num_rows)
            progress.update(bar, total=job.num_rows)

    def _batches(
        self, registry: BaseRegistry, task: MaterializationTask
    ) -> tuple[Iterator[pa.RecordBatch], int | None]:
        """Batches with the view's own column names, and the number of their rows where it is known beforehand."""
        view, context = task.feature_view, self.get_execution_context(registry, task)
        keys, features, event_column, known_column = _get_column_names(view, context.entity_defs)
        mapping = view.batch_source.field_mapping or {}
        columns = ColumnInfo(keys, features, event_column, known_column, mapping)
        pulled = create_offline_store_retrieval_job(
            view.batch_source, columns, context, make_tzaware(task.start_time), make_tzaware(task.end_time)
        )
        if hasattr(pulled, "to_record_batches"):
            return (_own_names(view, b, mapping) for b in pulled.to_record_batches(self._batch_rows)), None
        table = pulled.to_arrow()
        slices = table.to_batches(max_chunksize=self._batch_rows)
        return (_own_names(view, b, mapping) for b in slices), table.num_rows


def _is_plain(view: FeatureView) -> bool:
    """True when the view's rows are its source's rows and go online only."""
    extras = ("feature_transformation", "aggregations", "filter", "source_views")
    return bool(view.online and not view.offline and not any(getattr(view, extra, None) for extra in extras))


def _own_names(view: FeatureView, batch: pa.RecordBatch, mapping: dict[str, str]) -> pa.RecordBatch:
    batch = batch.rename_columns([mapping.get(name, name) for name in batch.schema.names])
    names = {f.name for f in view.entity_columns}
    if DUMMY_ENTITY_ID in names and DUMMY_ENTITY_ID not in batch.schema.names:
        batch = batch.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * batch.num_rows))
    _validate_vector_field_lengths(batch, view)
    return batch


def _bar(is_shown: bool) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not is_shown,
    )
