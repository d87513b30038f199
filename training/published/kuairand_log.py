"""KuaiRand's files as arrays: the reconstructed history, then the dated log, with what is known of users and videos.

A day is the file's `date`, an hour its `date` and `hourmin`: when an impression reached the platform, up to an hour
after `time_ms`, at which it was shown. Times that a model reads are of `time_ms`; what is known follows the file.
Legend: N rows, U users, V videos.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import InputError
from events.importers.batch import Batch
from events.importers.keys import occurrences
from events.importers.kuairand_codes import HISTORY_COLUMNS, HISTORY_LABELS, LABELS, USER_COLUMNS, VIDEO_COLUMNS
from events.importers.kuairand_entities import posts as read_videos
from events.importers.kuairand_entities import users as read_users
from events.importers.source_files import read_text
from training.published.lines import refuse

Int64s = NDArray[np.int64]

HEAD_COLUMNS = {**LABELS, "profile_enter": "is_profile_enter"}
HEADS = tuple(HEAD_COLUMNS)
"""Our names of the labels, in the order of their columns."""

LOG_COLUMNS = ("user_id", "video_id", "date", "hourmin", "time_ms", "tab", *HEAD_COLUMNS.values())
HISTORY_DAY = -1
HOUR_MS = 3_600_000
CHINA_MS = 8 * HOUR_MS


@dataclass(frozen=True)
class KuaiRand:
    """N rows, a user's history in its order before its dated rows in order of time."""

    users: Int64s
    """[N] rows of `user_codes`."""
    videos: Int64s
    """[N] rows of the videos' arrays."""
    labels: NDArray[np.float32]
    """[N, H] in order of HEADS, NaN where the history file tells nothing."""
    day: Int64s
    """[N] days since the log's first, HISTORY_DAY for the history."""
    hour: Int64s
    """[N] hours since the log's first midnight at which the row is known; for the history its place from -10,000."""
    shown_ms: Int64s
    """[N] unix milliseconds, -1 in the history."""
    surface: Int64s
    """[N] `tab`, -1 in the history."""
    dates: Int64s
    """The log's days as yyyymmdd, by number of day."""
    user_ids: Int64s
    user_codes: NDArray[np.int32]
    """[U, 25], -1 unknown."""
    video_ids: Int64s
    authors: Int64s
    """[V] numbers from 0."""
    topics: Int64s
    """[V] first tag, -1 unknown."""
    seconds: NDArray[np.float32]
    """[V] duration, NaN unknown."""
    video_codes: NDArray[np.int32]
    """[V, 5], -1 unknown."""

    @property
    def is_history(self) -> NDArray[np.bool_]:
        return self.day == HISTORY_DAY

    @property
    def shown_hour(self) -> Int64s:
        """Hour of the day in China at which a row was shown, -1 in the history, [N]."""
        return np.where(self.shown_ms < 0, -1, (self.shown_ms + CHINA_MS) // HOUR_MS % 24)


def read_kuairand(folder: Path) -> KuaiRand:
    """The files in `folder`, named as upstream names them. Raises InputError, naming file and line, for a bad row."""
    log = Batch("log", read_text(_files(folder, "log_standard_*.csv"), LOG_COLUMNS))
    history = Batch("history", read_text(_files(folder, "train_tail*_reconstructed.parquet"), HISTORY_COLUMNS))
    users = Batch("users", read_text(_files(folder, "user_features*.csv"), USER_COLUMNS))
    videos = Batch("videos", read_text(_files(folder, "video_features_basic*.csv"), VIDEO_COLUMNS))
    dated, before = _log_rows(log), _history_rows(history)
    user_table, video_table = read_users(users), read_videos(videos)
    refuse(fault for batch in (log, history, users, videos) for fault in _faults(batch))
    rows = {name: np.concatenate([before[name], dated[name]]) for name in before}
    user_ids, video_ids = user_table["user_id"].to_numpy(), video_table["post_id"].to_numpy()
    dates, day = np.unique(dated["date"], return_inverse=True)
    return KuaiRand(
        users=_places(rows["user_id"], user_ids, "user", "user_features*.csv"),
        videos=_places(rows["video_id"], video_ids, "video", "video_features_basic*.csv"),
        labels=np.concatenate([before["labels"], dated["labels"]]),
        day=np.concatenate([np.full(len(before["user_id"]), HISTORY_DAY), day]),
        hour=np.concatenate([before["place"] - 10_000, day * 24 + dated["place"] // 100]),
        shown_ms=rows["time_ms"],
        surface=rows["tab"],
        dates=dates,
        user_ids=user_ids,
        user_codes=_matrix(user_table["profile_codes"]),
        video_ids=video_ids,
        authors=np.unique(video_table["creator_id"].to_numpy(), return_inverse=True)[1],
        topics=video_table["topic_id"].to_numpy(),
        seconds=video_table["duration_seconds"].to_numpy().astype(np.float32),
        video_codes=_matrix(video_table["content_codes"]),
    )


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if not found:
        raise InputError(f"{folder} holds no {pattern}; expected the unpacked files of KuaiRand-Pure")
    return found


def _faults(batch: Batch) -> list[str]:
    """One line per refused row; of a CSV with the number of its line, the header being the first."""
    table = batch.refused()
    rows = zip(*(table[name].to_pylist() for name in ("file", "row", "reason")), strict=True)
    return [f"{file}:{row + (not file.endswith('.parquet'))}: {reason}" for file, row, reason in rows]


def _log_rows(batch: Batch) -> dict[str, NDArray[Any]]:
    """The log in order of time; rows of one instant keep theirs."""
    columns = {name: batch.ids(name) for name in ("user_id", "video_id", "date", "hourmin", "time_ms", "tab")}
    batch.refuse(pc.greater_equal(columns["hourmin"], 2400), "hourmin: not within 0 and 2359")
    labels = [batch.flags(name, is_required=True) for name in HEAD_COLUMNS.values()]
    rows = {name: _numbers(column) for name, column in columns.items()} | {"labels": _labels(labels)}
    rows["place"] = rows.pop("hourmin")
    order = np.argsort(rows["time_ms"], kind="stable")
    return {name: values[order] for name, values in rows.items()}


def _history_rows(batch: Batch) -> dict[str, NDArray[Any]]:
    """The history, a user's rows in order of `pos`."""
    columns = {name: batch.ids(column) for name, column in (("user_id",) * 2, ("video_id",) * 2, ("place", "pos"))}
    numbers = {name: _numbers(column) for name, column in columns.items()}
    batch.refuse(occurrences(numbers["user_id"], numbers["place"]) > 0, "pos: occurs twice for one user")
    unknown = pa.nulls(len(batch), pa.bool_())
    labels = [
        batch.flags(HISTORY_LABELS[head], is_required=True) if head in HISTORY_LABELS else unknown for head in HEADS
    ]
    absent = {name: np.full(len(batch), -1) for name in ("time_ms", "tab")}
    rows: dict[str, NDArray[Any]] = {**numbers, **absent, "labels": _labels(labels)}
    order = np.lexsort((rows["place"], rows["user_id"]))
    return {name: values[order] for name, values in rows.items()}


def _numbers(column: pa.Array) -> Int64s:
    filled: Int64s = pc.fill_null(column, -1).to_numpy(zero_copy_only=False)
    return filled


def _labels(columns: list[pa.Array]) -> NDArray[np.float32]:
    as_numbers = [pc.fill_null(column.cast(pa.float32()), float("nan")) for column in columns]
    return np.stack([column.to_numpy(zero_copy_only=False) for column in as_numbers], axis=1)


def _matrix(lists: pa.ChunkedArray) -> NDArray[np.int32]:
    flat: NDArray[np.int32] = lists.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(lists), -1)


def _places(wanted: Int64s, known: Int64s, what: str, file: str) -> Int64s:
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], wanted).clip(max=max(len(known) - 1, 0))]
    lost = np.unique(wanted[known[place] != wanted])
    if len(lost):
        raise InputError(f"{what} {lost[0]} and {len(lost) - 1} more stand in no row of {file}; add them to the file")
    return place
