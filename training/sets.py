"""Point-in-time training sets: rows of the log joined with what was known at their serve time.

A set is built again only when its configuration, the data or the feature tables changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import FeatureStoreError, InputError, MissingStageError
from core.files import content_hash
from core.held_out import test_days
from core.settings import Settings
from core.workspace import DatasetManifest, Workspace
from feature_repo.catalog import ALL_VIEWS, VIEWS
from training.example_rows import (
    CONTEXT_TEXTS,
    LABELS,
    RowQuery,
    assign_candidate_split,
    candidate_rows,
    impression_rows,
    taught_candidates,
)
from training.examples import CANDIDATE_RANK, CANDIDATE_SCORE
from training.provenance import code_id
from training.recipe_features import recipe_columns
from training.set_files import (
    ExampleSet,
    SetManifest,
    SetWriter,
    folder_hash,
    load_set,
    new_folder,
    write_manifest,
)
from training.splits import SPLITS, SplitConfig, time_split
from training.user_rows import is_of_user, once_per_request, user_row_of

FOUNDATION_SERVICE = "second_stage_v2"
"""The feature service that reads exported views."""

Columns = dict[str, NDArray[Any]]
LEFT_OUT = -1
Progress = Callable[[int, int], None]
"""Told (rows done, rows in all) as a set is joined."""


CODE = ("example_rows", "labels", "sampling", "set_files", "sets", "splits", "user_rows", "../core/held_out")
"""Modules whose text decides what a set holds."""

READS = {
    "impressions": ("impressions", "engagements", "requests"),
    "engaged": ("impressions", "engagements", "requests"),
    "candidates": ("candidates", "posts", "requests"),
    "catalogue": ("posts",),
}
"""Tables of the log that each kind of rows comes from."""


@dataclass(frozen=True)
class SetConfig:
    """What one training set holds."""

    name: str
    service: str
    rows: Literal["impressions", "engaged", "candidates", "catalogue"]
    max_rows: int
    negatives_per_positive: float | None = None
    """Of "engaged" rows; None for whole requests."""
    columns: tuple[str, ...] = ()
    """Features to keep, those that recipes read; none named keeps all of the service."""
    is_held_out_excluded: bool = True
    chunk_rows: int = 150_000
    seed: int = 0
    split: SplitConfig = field(default_factory=SplitConfig)


def set_configs(
    manifest: DatasetManifest, max_rows: int | None = None, seed: int = 0, has_foundation: bool = False
) -> dict[str, SetConfig]:
    """The three sets for this data: second_stage, retrieval, first_stage.

    `has_foundation`: the second stage also reads what the foundation model exported.

    World: whole requests sampled down to what one machine joins and learns in minutes; held-out users left out.
    Imported logs: every row and every user; the last two days test, the day before calibrates and stops training.
    """
    is_world = manifest.kind == "world"
    last_days = test_days(manifest.kind)
    split = SplitConfig(test_days=last_days) if is_world else SplitConfig(0.0, 0.0, 1.0, last_days)
    rows = max_rows or 400_000

    base = SetConfig(
        "second_stage",
        FOUNDATION_SERVICE if has_foundation else "second_stage_v1",
        "impressions",
        rows,
        columns=recipe_columns(has_crosses=True, has_foundation=has_foundation),
        is_held_out_excluded=is_world,
        seed=seed,
        split=split,
    )
    towers = replace(base, columns=recipe_columns(has_crosses=False), max_rows=rows)
    return {
        "second_stage": base,
        "retrieval": replace(
            towers, name="retrieval", service="retrieval_v1", rows="engaged", negatives_per_positive=1.0
        ),
        "first_stage": replace(
            towers,
            name="first_stage",
            service="first_stage_v1",
            rows="candidates",
            max_rows=max_rows or 2_000_000,
        ),
    }


def inputs_id(workspace: Workspace, config: SetConfig) -> str:
    """Hash of the configuration, the data version and the state of the feature tables and log that a set reads."""
    tables = READS[config.rows]
    views = ALL_VIEWS if config.service == FOUNDATION_SERVICE else VIEWS
    folders = [*(workspace.features / view for view in views), *(workspace.log / table for table in tables)]
    state = [
        f"{file.relative_to(workspace.root)} {(status := file.stat()).st_size} {status.st_mtime_ns}"
        for folder in folders
        for file in sorted(folder.rglob("*.parquet"))
    ]
    return content_hash([repr(asdict(config)), workspace.manifest().data_version, code_id(CODE), *state], 16)


def build_set(
    settings: Settings, config: SetConfig, progress: Progress, *, is_forced: bool = False
) -> tuple[ExampleSet, bool]:
    """The set named in `config`, and whether it was built now rather than found unchanged.

    Raises MissingStageError without features or rows of its kind.
    """
    made_from = inputs_id(settings.workspace, config)
    present = None if is_forced else unchanged_set(settings.workspace.training_sets, config.name, made_from)
    if present is not None:
        return present, False
    rows, part = _rows(settings, config)
    keep = part >= 0
    if not keep.all():
        rows, part = rows.filter(pa.array(keep)), part[keep]
    root = settings.workspace.training_sets
    return write_set(root, settings.workspace, config, rows, part, made_from, progress), True


def unchanged_set(root: Path, name: str, made_from: str) -> ExampleSet | None:
    """The set below `root` if it was made from these inputs."""
    if not (root / name / "manifest.json").exists():
        return None
    present = load_set(root, name)
    return present if present.manifest.inputs_id == made_from else None


def write_set(
    root: Path,
    workspace: Workspace,
    config: SetConfig,
    rows: pa.Table,
    part: NDArray[np.int8],
    made_from: str,
    progress: Progress,
) -> ExampleSet:
    """The set of these rows, joined with features chunk by chunk and put in place in one step."""
    user_row = user_row_of(rows)
    with new_folder(root / config.name) as folder:
        posts, users = SetWriter(folder, len(rows)), SetWriter(folder, int(user_row[-1]) + 1)
        for start in range(0, len(rows), config.chunk_rows):
            chunk, of_chunk = rows.slice(start, config.chunk_rows), user_row[start : start + config.chunk_rows]
            found = joined_columns(workspace, chunk, config.service, config.columns)
            posts.write(start, {name: values for name, values in found.items() if not is_of_user(name)})
            of_users = {name: values for name, values in found.items() if is_of_user(name)}
            # A request that a chunk began is written again by the next one, with the same values.
            users.write(int(of_chunk[0]), once_per_request(of_users, of_chunk, chunk["request_id"].to_numpy()))
            progress(min(start + config.chunk_rows, len(rows)), len(rows))
        user_columns, vocabularies = users.columns(), posts.vocabularies() | users.vocabularies()
        columns = sorted(posts.columns() + user_columns)
        posts.flush()
        users.flush()
        for name, values in (_identity(rows, part) | {"user_of": user_row}).items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        manifest = SetManifest(
            name=config.name,
            set_id=folder_hash(folder),
            inputs_id=made_from,
            service=config.service,
            data_version=workspace.manifest().data_version,
            rows=len(rows),
            rows_by_split={name: int((part == code).sum()) for code, name in enumerate(SPLITS)},
            columns=columns,
            vocabularies=vocabularies,
            config=asdict(config),
            user_columns=user_columns,
            user_rows=int(user_row[-1]) + 1,
        )
        write_manifest(folder, manifest)
    return load_set(root, config.name)


def _rows(settings: Settings, config: SetConfig) -> tuple[pa.Table, NDArray[np.int8]]:
    from events.read import connect, register_log

    workspace = settings.workspace
    data = workspace.manifest()
    split = time_split(data.first_event_at, data.last_event_at, config.split)
    connection = connect(settings)
    try:
        register_log(connection, workspace.log)
        if config.rows == "candidates":
            rows = candidate_rows(connection, config.max_rows, config.seed)
            part = assign_candidate_split(rows)
            part[~taught_candidates(rows, part, config.seed)] = LEFT_OUT
        else:
            query = RowQuery(config.max_rows, config.negatives_per_positive, config.is_held_out_excluded, config.seed)
            rows = impression_rows(connection, split, query)
            part = split.assign(seconds(rows["served_at"]))
    finally:
        connection.close()
    if len(rows) == 0 and config.rows == "candidates":
        raise MissingStageError(
            "candidates of sampled requests", workspace.log / "candidates", "python -m serving draw-candidates"
        )
    if len(rows) == 0:
        raise InputError(
            f"no {config.rows} in {workspace.log} between {split}; expected dated impressions, import a longer log"
        )
    return rows, part


def seconds(instants: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    """Unix seconds of microsecond instants, [N]."""
    micros: NDArray[np.int64] = instants.cast(pa.int64()).to_numpy()
    return micros.astype(np.float64) / 1e6


def joined_columns(workspace: Workspace, rows: pa.Table, service: str, names: Sequence[str] = ()) -> Columns:
    """Features of `service` (all, or `names` of it) and request context at each row's served_at, in order of rows."""
    extra = [name for name in (CANDIDATE_SCORE, CANDIDATE_RANK) if name in rows.column_names]
    features = joined_features(workspace, rows, service, names)
    return features | context_columns(rows) | {name: rows[name].to_numpy() for name in extra}


def joined_features(workspace: Workspace, rows: pa.Table, service: str, names: Sequence[str] = ()) -> Columns:
    """Features of `service` (all, or `names` of it) at each row's served_at, in order of rows."""
    from feature_repo.columns import columns_from_arrow
    from feature_repo.historical import training_frame

    entity_rows = pa.table(
        {
            "user_id": rows["user_id"],
            "post_id": rows["post_id"],
            "creator_id": rows["creator_id"],
            "event_timestamp": rows["served_at"],
            "example_index": pa.array(np.arange(len(rows)), pa.int64()),
        }
    )
    frame = training_frame(workspace, entity_rows, service)
    order = frame["example_index"].to_numpy()
    if len(order) != len(rows) or not np.array_equal(np.sort(order), np.arange(len(rows))):
        raise FeatureStoreError(
            f"service {service} returned {len(order)} rows for {len(rows)} examples; expected one each"
        )
    if not np.array_equal(order, np.arange(len(rows))):
        frame = frame.take(pa.array(np.argsort(order)))
    wanted = (
        [n for n in frame.column_names if "__" in n] if not names else [n for n in names if n in frame.column_names]
    )
    return columns_from_arrow(frame, wanted)


def context_columns(rows: pa.Table) -> Columns:
    """request__hour (0-23) and request__weekday (Monday 0) in UTC at serve time, and the request's texts, [N] each."""
    at = seconds(rows["served_at"])
    columns: Columns = {
        "request__hour": (at // 3_600 % 24).astype(np.int64),
        # 1970-01-01 was a Thursday.
        "request__weekday": ((at // 86_400 + 3) % 7).astype(np.int64),
    }
    for name in CONTEXT_TEXTS:
        columns[f"request__{name}"] = rows[f"request__{name}"].to_numpy(zero_copy_only=False)
    return columns


def _identity(rows: pa.Table, part: NDArray[np.int8]) -> Columns:
    labels = [rows[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in LABELS]
    return {
        "labels": np.stack(labels, axis=1),
        "user_ids": rows["user_id"].to_numpy(),
        "post_ids": rows["post_id"].to_numpy(),
        "request_ids": rows["request_id"].to_numpy(),
        "served_at": seconds(rows["served_at"]),
        "weights": rows["weights"].to_numpy(),
        "split": part,
    }
