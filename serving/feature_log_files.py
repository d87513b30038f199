"""Records of served features on disk: Parquet files of one row per ranking, in `served_features/`.

A column of the user or the request holds one value per row; ids, read instants and columns of posts, creators and
crosses hold a list with an entry per ranked post. `read_feature_log` gives the records back as they were kept.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.clock import WallClock
from core.errors import InputError
from core.files import write_atomically
from serving.funnel.feature_record import FeatureRecord

KEEP_DAYS = 7
"""Files are dropped this long after they were written, by the wall clock; pages as served are kept longer."""

Kept = tuple[FeatureRecord, str]
"""A record, and how far each view was materialised when it was kept: JSON, instant by view, `{}` where unknown."""

_INSTANT = pa.timestamp("us", tz="UTC")
_TEXTS = ("data_version", "spec_version", "model_versions")
_PER_POST = ("post_ids", "creator_ids", "post_read_at", "creator_read_at")
_AGES = ("post_max_age_seconds", "creator_max_age_seconds")


def write_feature_log(folder: Path, kept: Sequence[Kept]) -> list[Path]:
    """The files written, one per set of columns; a reader sees a file whole or not at all."""
    groups: dict[tuple[str, ...], list[Kept]] = defaultdict(list)
    for record, until in kept:
        groups[(*record.user, *record.posts)].append((record, until))
    paths = []
    for group in groups.values():
        buffer = pa.BufferOutputStream()
        pq.write_table(_table(group), buffer, compression="zstd")
        path = folder / f"{min(r.served_at for r, _ in group):%Y%m%dT%H%M%S}-{uuid4().hex[:12]}.parquet"
        write_atomically(path, buffer.getvalue().to_pybytes())
        paths.append(path)
    return paths


def read_feature_log(folder: Path, limit: int | None = None) -> Iterator[Kept]:
    """The records of the folder, at most `limit`, file by file, last written first; one file is in memory at a time.

    Raises InputError for a file that is none; one that is pruned meanwhile is passed over.
    """
    left = limit
    for path in _newest_first(folder):
        try:
            table = pq.read_table(path)
            if left is not None:
                table = table.slice(0, left)
                left -= table.num_rows
            yield from (_record(table, row) for row in range(table.num_rows))
        except FileNotFoundError:
            continue
        except (pa.ArrowException, KeyError, OSError) as error:
            raise InputError(
                f"{path} is not a file of served features ({error!r}); it was written by another version or damaged: "
                "delete it"
            ) from error
        if left == 0:
            return


def count_feature_log(folder: Path) -> int:
    """Number of records in the folder, from the files' footers; damaged files count 0."""
    total = 0
    for path in _newest_first(folder):
        try:
            total += int(pq.read_metadata(path).num_rows)
        except (pa.ArrowException, OSError):
            continue
    return total


def _newest_first(folder: Path) -> list[Path]:
    # By the file system's clock: names carry the platform's, which starts again where it is anchored.
    found = []
    for path in folder.glob("*.parquet"):
        try:
            found.append((path.stat().st_mtime_ns, path.name, path))
        except FileNotFoundError:
            continue
    return [path for _, _, path in sorted(found, reverse=True)]


def prune_feature_log(folder: Path) -> int:
    """Number of files dropped because they were written more than KEEP_DAYS ago; leftovers of a crash too."""
    before = WallClock().now() - timedelta(days=KEEP_DAYS)
    num_dropped = 0
    for path in folder.glob("*"):
        try:
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                path.unlink()
                num_dropped += 1
        except FileNotFoundError:  # another server was faster
            continue
    return num_dropped


def forget_users(folder: Path, user_ids: Sequence[int]) -> int:
    """Number of files that held rankings of these users and hold them no more. Every file is looked into."""
    wanted, num_written = pa.array(user_ids, pa.int64()), 0
    for path in _newest_first(folder):
        try:
            with pq.ParquetFile(path) as file:  # a third of the time that `read_table` takes
                held = file.read(["user_id"])["user_id"]
            if not pc.any(pc.is_in(held, wanted)).as_py():
                continue
            table, times = pq.read_table(path), path.stat()
            table = table.filter(pc.invert(pc.is_in(table["user_id"], wanted)))
            if table.num_rows:
                buffer = pa.BufferOutputStream()
                pq.write_table(table, buffer, compression="zstd")
                write_atomically(path, buffer.getvalue().to_pybytes())
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # its age counts from when it was kept
            else:
                path.unlink()
            num_written += 1
        except FileNotFoundError:
            continue
        except (pa.ArrowException, KeyError):  # none of ours; it goes with its age
            continue
    return num_written


def _table(kept: Sequence[Kept]) -> pa.Table:
    records = [record for record, _ in kept]
    columns: dict[str, pa.Array] = {
        "request_id": pa.array([r.request_id for r in records], pa.int64()),
        "user_id": pa.array([r.user_id for r in records], pa.int64()),
        "served_at": pa.array([r.served_at for r in records], _INSTANT),
        "materialized_until": pa.array([until for _, until in kept], pa.string()),
    }
    columns |= {name: pa.array([getattr(r, name) for r in records], pa.string()) for name in _TEXTS}
    for place, name in enumerate(_AGES):
        columns[name] = pa.array([r.max_age_seconds[place] for r in records], pa.float64())
    offsets = np.concatenate([[0], np.cumsum([len(r.post_ids) for r in records])]).astype(np.int32)
    for name in _PER_POST:
        columns[name] = _lists(offsets, np.concatenate([getattr(r, name) for r in records]))
    for name in records[0].user:
        columns[name] = _values(np.concatenate([r.user[name] for r in records]))
    for name in records[0].posts:
        columns[name] = _lists(offsets, np.concatenate([r.posts[name] for r in records]))
    return pa.table(columns)


def _lists(offsets: NDArray[np.int32], values: NDArray[Any]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), _values(values))


def _values(values: NDArray[Any]) -> pa.Array:
    """[N] as it is, [N, L] as lists; which of the two kinds of list tells columns of posts from lists of a user."""
    if values.ndim == 1:
        return pa.array(values, from_pandas=False)
    flat, length = np.ascontiguousarray(values).reshape(-1), values.shape[1]
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, from_pandas=False), length)


def _record(table: pa.Table, row: int) -> Kept:
    known = {"request_id", "user_id", "served_at", "materialized_until", *_TEXTS, *_AGES, *_PER_POST}
    cell = {name: table.column(name)[row] for name in table.column_names}
    is_per_post = {name: pa.types.is_large_list(table.schema.field(name).type) for name in table.column_names}
    features = [name for name in table.column_names if name not in known]
    user = {n: _array(table.column(n).slice(row, 1).combine_chunks()) for n in features if not is_per_post[n]}
    posts = {n: _array(cell[n].values) for n in features if is_per_post[n]}
    post_ids, creator_ids, post_read_at, creator_read_at = (_array(cell[name].values) for name in _PER_POST)
    record = FeatureRecord(
        request_id=cell["request_id"].as_py(),
        user_id=cell["user_id"].as_py(),
        served_at=cell["served_at"].as_py().astimezone(UTC),
        data_version=cell["data_version"].as_py(),
        spec_version=cell["spec_version"].as_py(),
        model_versions=cell["model_versions"].as_py(),
        max_age_seconds=(cell[_AGES[0]].as_py(), cell[_AGES[1]].as_py()),
        post_ids=post_ids,
        creator_ids=creator_ids,
        post_read_at=post_read_at,
        creator_read_at=creator_read_at,
        user=user,
        posts=posts,
    )
    return record, cell["materialized_until"].as_py()


def _array(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """[N] or [N, L] with the dtype the column was kept with."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(len(values), values.type.list_size))
    array = values.to_numpy(zero_copy_only=False)
    return np.asarray(array, dtype=object) if pa.types.is_string(values.type) else np.asarray(array)
