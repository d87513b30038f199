"""From taken and refused rows to a dataset: quarantine, log and manifest, in that order, all or nothing."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InputError
from core.workspace import DatasetManifest, Workspace
from events.importers.batch import Batch
from events.log import append, count_rows, staged
from events.quarantine import quarantine

GATE = "import"
OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """Where a dataset comes from: what the manifest tells about it."""

    kind: str
    data_version: str
    is_past: bool
    config: dict[str, object]


@dataclass(frozen=True)
class InputReport:
    """What became of one input table: rows offered, and the refused ones with reasons."""

    table: str
    num_offered: int
    refused: pa.Table

    @staticmethod
    def of(batch: Batch) -> "InputReport":
        return InputReport(batch.table, batch.num_offered, batch.refused())

    @property
    def num_taken(self) -> int:
        return self.num_offered - int(self.refused.num_rows)

    def reasons(self) -> list[tuple[str, int, list[str]]]:
        """Each reason with its number of rows and up to three examples, most frequent first."""
        counts = Counter(self.refused["reason"].to_pylist())
        return [(reason, count, self._examples(reason)) for reason, count in counts.most_common()]

    def _examples(self, reason: str) -> list[str]:
        rows = self.refused.filter(pc.equal(self.refused["reason"], reason)).slice(0, 3).to_pylist()
        return [f"{row['file']} row {row['row']}: {row['content']}" for row in rows]


@dataclass(frozen=True)
class ImportReport:
    """What an import took and refused, and what it noticed. `manifest` is None after a dry run."""

    inputs: list[InputReport]
    tables: dict[str, int]
    notes: list[str] = field(default_factory=list)
    manifest: DatasetManifest | None = None


def write_dataset(
    workspace: Workspace,
    origin: Origin,
    tables: dict[str, pa.Table],
    inputs: Sequence[InputReport],
    on_stage: OnStage,
) -> DatasetManifest:
    """The manifest of the dataset now in the workspace; what was there before stays until all of it is written."""
    _refuse_foreign(workspace, origin.kind)
    first, last = time_span(tables)
    refused = [report.refused for report in inputs if report.refused.num_rows]
    if refused:
        rows = pa.concat_tables(refused)
        quarantine(workspace, GATE, rows.drop_columns(["reason"]), rows["reason"])
    with staged(workspace.log) as log_root:
        for name, rows in tables.items():
            on_stage(f"write {name}")
            append(log_root, name, rows, source=origin.kind)
    manifest = DatasetManifest(
        name=workspace.root.name,
        kind=origin.kind,
        data_version=origin.data_version,
        anchor_at=last if origin.is_past else None,
        first_event_at=first,
        last_event_at=last,
        rows=count_rows(workspace.log),
        config=origin.config,
    )
    workspace.write_manifest(manifest)
    return manifest


def _refuse_foreign(workspace: Workspace, kind: str) -> None:
    """Raises InputError when the workspace holds data of another kind, which the import would replace."""
    if workspace.manifest_path.exists() and (found := workspace.manifest().kind) != kind:
        raise InputError(
            f"{workspace.root}: holds {found} data and the import would replace it; "
            "give the new data a name of its own, such as DATASET=shop"
        )


def time_span(tables: dict[str, pa.Table]) -> tuple[datetime, datetime]:
    """First and last instant of impressions and engagements. Raises InputError without an impression."""
    if tables["impressions"].num_rows == 0:
        raise InputError("no impression could be taken; the quarantine or a dry run shows the reasons")
    acts = [tables[name] for name in ("impressions", "engagements") if name in tables and tables[name].num_rows]
    spans = [pc.min_max(rows["event_at"]).as_py() for rows in acts]
    return min(span["min"] for span in spans), max(span["max"] for span in spans)
