"""The simulated world's training rows for `benchmarks.dedup`: requests of 5 to 8 posts, histories of any length.

Histories are what the log knew at serve time: the last posts that the user saw, with the strongest engagement with
each, newest first. The shipped feature view keeps engaged posts only, and fewer of them.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from core.schema import HEADS
from core.workspace import Workspace
from training.examples import Examples, RequestColumns
from training.set_files import ExampleSet, SetManifest, SetWriter, load_set

POSTS_PER_REQUEST = (5, 8)
SEEN = len(HEADS)
"""Kind of an entry that was seen and not engaged with."""
HISTORY = ("post_ids", "creator_ids", "topic_ids", "kinds")


def build_world(folder: Path, scale: float) -> Workspace:
    """The workspace of a world with features and the second stage's set, made by the rooms' commands."""
    environment = os.environ | {"VITRINE_VAR_DIR": str(folder), "VITRINE_DATASET": "world", "OMP_NUM_THREADS": "1"}
    for command in (
        ("events", "generate", "--preset", "world", "--scale", str(scale)),
        ("feature_repo", "build"),
        ("feature_repo", "apply"),
        ("training", "sets", "--set", "second_stage"),
    ):
        subprocess.run(
            [sys.executable, "-m", *command], env=environment, check=True, capture_output=True, text=True, timeout=900
        )
    return Workspace(folder / "world")


def training_rows(workspace: Workspace, length: int) -> Examples:
    """The training part of the set, requests of 5 to 8 posts only, with histories of `length` entries."""
    train = load_set(workspace.training_sets, "second_stage").examples("train")
    assert isinstance(train.columns, RequestColumns)
    sizes = np.bincount(train.columns.user_of)[train.columns.user_of]
    train = train.take(np.flatnonzero((sizes >= POSTS_PER_REQUEST[0]) & (sizes <= POSTS_PER_REQUEST[1])))
    assert isinstance(train.columns, RequestColumns)
    columns = train.columns
    first = np.unique(columns.user_of, return_index=True)[1]
    users = dict(columns.users) | histories(workspace, train.user_ids[first], train.served_at[first], length)
    return replace(train, columns=RequestColumns(columns.own, users, columns.user_of))


def histories(
    workspace: Workspace, user_ids: NDArray[np.int64], served_at: NDArray[np.float64], length: int
) -> dict[str, NDArray[np.int32]]:
    """The history's columns, [R, length] each, -1 behind the oldest entry; nothing known after `served_at`."""
    kinds = ", ".join(f"'{head}'" for head in HEADS)
    read = "SELECT * FROM read_parquet('{}/{}/**/*.parquet')"
    log = {name: read.format(workspace.log, name) for name in ("impressions", "engagements", "posts")}
    with duckdb.connect() as connection:
        seen = connection.sql(f"""
            WITH topics AS (
                SELECT post_id, arg_max(topic_id, event_at) AS topic_id FROM ({log["posts"]}) GROUP BY post_id
            )
            SELECT i.user_id, i.post_id, i.creator_id, coalesce(topic_id, -1) AS topic_id,
                   coalesce(min(list_position([{kinds}], e.kind)) - 1, {SEEN}) AS kind,
                   greatest(epoch(i.known_at), coalesce(epoch(max(e.known_at)), 0)) AS known_at
            FROM ({log["impressions"]}) i LEFT JOIN ({log["engagements"]}) e ON e.impression_id = i.event_id
            LEFT JOIN topics ON topics.post_id = i.post_id
            GROUP BY i.event_id, i.user_id, i.post_id, i.creator_id, topic_id, i.known_at
            ORDER BY i.user_id, 6, i.event_id
        """).fetchnumpy()
    # One number per entry that grows with user, then with time, so that one search finds every request's place.
    spread = 2.0 * (max(seen["known_at"].max(), served_at.max()) + 1)
    keys = seen["user_id"] * spread + seen["known_at"]
    after = np.searchsorted(keys, user_ids * spread + served_at, side="right")
    start = np.searchsorted(keys, user_ids * spread)
    places = after[:, None] - 1 - np.arange(length)
    is_entry = places >= start[:, None]
    names = ("post_id", "creator_id", "topic_id", "kind")
    return {
        f"user_history__history_{column}": np.where(is_entry, seen[name][np.maximum(places, 0)], -1).astype(np.int32)
        for column, name in zip(HISTORY, names, strict=True)
    }


def write_rows(folder: Path, name: str, rows: Examples, is_shared: bool) -> ExampleSet:
    """The rows as a set on disk, the user's columns once per request or once per row."""
    columns = rows.columns
    assert isinstance(columns, RequestColumns)
    target = folder / name
    posts, users = SetWriter(target, rows.num_rows), SetWriter(target, len(next(iter(columns.users.values()))))
    posts.write(0, dict(columns.own if is_shared else columns))
    if is_shared:
        users.write(0, dict(columns.users))
    user_columns, vocabularies = users.columns(), posts.vocabularies() | users.vocabularies()
    names = sorted(posts.columns() + user_columns)
    posts.flush()
    users.flush()
    identity = {part: getattr(rows, part) for part in ("labels", "user_ids", "post_ids", "request_ids", "served_at")}
    identity |= {"weights": np.ones(rows.num_rows, np.float32), "split": np.zeros(rows.num_rows, np.int8)}
    if is_shared:
        identity["user_of"] = columns.user_of.astype(np.int32)
    for part, values in identity.items():
        np.save(target / f"{part}.npy", values)
    manifest = SetManifest(name, "", "", "", "", rows.num_rows, {}, names, vocabularies, {}, user_columns)
    return ExampleSet(target, manifest)


def folder_bytes(folder: Path) -> int:
    """Size of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
