"""The KuaiRand importer: any subset of the upstream files, and the reconstructed history, as one dataset."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import InputError
from core.files import content_hash, file_hash
from core.schema import INSTANT, TABLES
from core.workspace import Workspace
from events.importers import kuairand_codes as codes
from events.importers import kuairand_entities as entities
from events.importers import kuairand_events as rows
from events.importers.batch import Batch
from events.importers.dataset import ImportReport, InputReport, OnStage, Origin, write_dataset
from events.importers.keys import positions_in
from events.importers.source_files import read_text

KIND = "kuairand"
MAPPING_VERSION = "1"
"""Part of the data version: raise it when the same files give other rows."""

_LOGS = ("log_standard_*.csv", "log_random_*.csv")
_HISTORY = ("train_tail*_reconstructed.parquet",)
_USERS = ("user_features*.csv",)
_VIDEOS = ("video_features_basic*.csv",)


def import_kuairand(data_dir: Path, workspace: Workspace, on_stage: OnStage = lambda _: None) -> ImportReport:
    """What was imported from the folder into the workspace, with an anchored clock at the data's last event.

    Raises InputError when the folder has no log, or a file lacks a column.
    """
    files = _find(data_dir)
    inputs: list[Batch] = []
    notes: list[str] = []
    on_stage("read logs")
    interactions = _interactions(files, inputs, notes)
    on_stage("read users and videos")
    tables = _entities(files, interactions, inputs, notes)
    on_stage("map rows")
    creator_ids = entities.creators_of(interactions["post_id"].to_numpy(), tables["posts"])
    tables["impressions"] = rows.impressions(interactions, creator_ids)
    tables["engagements"] = rows.engagements(interactions, creator_ids)
    tables["follows"] = rows.follows(tables["engagements"])
    reports = [InputReport.of(batch) for batch in inputs]
    manifest = write_dataset(workspace, _origin(files, reports, notes), tables, reports, on_stage)
    return ImportReport(reports, manifest.rows, notes, manifest)


def _find(data_dir: Path) -> dict[str, list[Path]]:
    """The files of each sort, by name. Raises InputError without a folder or any log."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; expected the unpacked KuaiRand data")
    patterns = {"logs": _LOGS, "history": _HISTORY, "users": _USERS, "videos": _VIDEOS}
    files = {
        name: sorted(file for pattern in globs for file in data_dir.glob(pattern)) for name, globs in patterns.items()
    }
    if not files["logs"] and not files["history"]:
        raise InputError(f"{data_dir}: holds none of {', '.join((*_LOGS, *_HISTORY))}; is it KuaiRand's data folder?")
    return files


def _interactions(files: dict[str, list[Path]], inputs: list[Batch], notes: list[str]) -> pa.Table:
    """Every impression with its labels, dated logs first, then the history that precedes them."""
    parts = []
    if files["logs"]:
        inputs.append(Batch("logs", read_text(files["logs"], codes.LOG_COLUMNS)))
        parts.append(rows.logged_interactions(inputs[-1]))
    if files["history"]:
        is_covered = (
            bool(parts) and pc.any(pc.less_equal(parts[0]["event_at"], pa.scalar(codes.IMPUTED_END, INSTANT))).as_py()
        )
        if is_covered:
            notes.append("history left out: the dated logs reach back into its days, rows would count twice")
        else:
            inputs.append(Batch("history", read_text(files["history"], codes.HISTORY_COLUMNS)))
            parts.append(rows.history_interactions(inputs[-1]))
    return pa.concat_tables(part.select(parts[0].column_names) for part in parts)


def _entities(
    files: dict[str, list[Path]], interactions: pa.Table, inputs: list[Batch], notes: list[str]
) -> dict[str, pa.Table]:
    """Users, posts and creators: those with features, then those only seen in the logs."""
    users, posts = TABLES["users"].arrow.empty_table(), TABLES["posts"].arrow.empty_table()
    if files["users"]:
        inputs.append(Batch("users", read_text(files["users"], codes.USER_COLUMNS)))
        users = entities.users(inputs[-1])
    if files["videos"]:
        inputs.append(Batch("videos", read_text(files["videos"], codes.VIDEO_COLUMNS)))
        posts = entities.posts(inputs[-1])
    lone_users = _absent(interactions["user_id"], users["user_id"])
    lone_posts = _absent(interactions["post_id"], posts["post_id"])
    for name, lone in (("users", lone_users), ("videos", lone_posts)):
        if len(lone):
            notes.append(f"{len(lone)} {name} have impressions but no row of features; taken with unknown features")
    posts = pa.concat_tables([posts, entities.unknown_posts(lone_posts)])
    users = pa.concat_tables([users, entities.unknown_users(lone_users)])
    return {"users": users, "creators": entities.creators(posts), "posts": posts}


def _absent(wanted: pa.ChunkedArray, known: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The wanted ids that are not known, each once, ascending."""
    ids = np.unique(wanted.to_numpy())
    return ids[positions_in(ids, known.to_numpy()) < 0]


def _origin(files: dict[str, list[Path]], reports: list[InputReport], notes: list[str]) -> Origin:
    used = [file for group in files.values() for file in group]
    version = content_hash([MAPPING_VERSION, *(part for file in used for part in (file.name, file_hash(file)))])
    config: dict[str, object] = {
        "files": [file.name for file in used],
        "mapping_version": MAPPING_VERSION,
        "refused": {report.table: report.refused.num_rows for report in reports},
        "notes": notes,
    }
    return Origin(KIND, version, is_past=True, config=config)
