"""A small, clean event log of known rows, for tests of what reads the log."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.schema import CONTENT_DIM, TABLES
from core.settings import Settings
from core.workspace import DatasetManifest
from events.log import append

FIRST_AT = datetime(2024, 3, 1, tzinfo=UTC)
NUM_DAYS = 6
END_AT = FIRST_AT + timedelta(days=NUM_DAYS)
NUM_USERS, NUM_CREATORS, NUM_POSTS, IMPRESSIONS_PER_DAY = 20, 5, 30, 50


def small_settings(var_dir) -> Settings:
    return Settings(var_dir=var_dir, dataset="shop", num_threads=1, duckdb_memory="1GB")


def write_small_log(settings: Settings, seed: int = 0) -> None:
    """Every table but candidates, and the manifest; 300 impressions, every second clicked."""
    tables = small_tables(np.random.default_rng(seed))
    for name, rows in tables.items():
        append(settings.workspace.log, name, rows, source="test")
    rows = {name: table.num_rows for name, table in tables.items()}
    manifest = DatasetManifest("shop", "own", "v1", END_AT, FIRST_AT, END_AT, rows, {})
    settings.workspace.write_manifest(manifest)


def small_tables(rng: np.random.Generator) -> dict[str, pa.Table]:
    start = FIRST_AT - timedelta(days=1)
    entity = {"country": "DE", "language": "de", "event_at": start, "known_at": start}
    embedding = [1.0] + [0.0] * (CONTENT_DIM - 1)
    impressions = [_impression(day, place, rng) for day in range(NUM_DAYS) for place in range(IMPRESSIONS_PER_DAY)]
    rows = {
        "users": [entity | {"user_id": u, "external_id": f"u{u}", "profile_codes": []} for u in range(NUM_USERS)],
        "creators": [entity | {"creator_id": c, "external_id": f"c{c}"} for c in range(NUM_CREATORS)],
        "posts": [
            entity
            | {"post_id": p, "external_id": f"p{p}", "creator_id": p % NUM_CREATORS, "created_at": start}
            | {"media_type": "image", "topic_id": p % 3, "duration_seconds": 5.0, "integrity_score": 1.0}
            | {"is_recommendable": True, "content_codes": [], "content_embedding": embedding}
            for p in range(NUM_POSTS)
        ],
        "follows": [
            {"event_id": f"f{u}", "user_id": u, "creator_id": u % NUM_CREATORS, "is_active": True}
            | {"event_at": FIRST_AT, "known_at": FIRST_AT}
            for u in range(NUM_USERS)
        ],
        "requests": [
            {"request_id": i["request_id"], "user_id": i["user_id"], "session_id": 1, "surface": "explore"}
            | {"country": None, "language": None, "device": "web", "spec_version": "v1"}
            | {"event_at": i["served_at"], "known_at": i["served_at"]}
            for i in impressions
        ],
        "impressions": impressions,
        "engagements": [_engagement(i, n) for n, i in enumerate(impressions) if n % 2 == 0],
    }
    return {name: pa.Table.from_pylist(values, schema=TABLES[name].arrow) for name, values in rows.items()}


def _impression(day: int, place: int, rng: np.random.Generator) -> dict:
    number = day * IMPRESSIONS_PER_DAY + place
    at = FIRST_AT + timedelta(days=day, minutes=20 * place)
    post_id = int(rng.integers(NUM_POSTS))
    return {
        "event_id": f"i{number}",
        "request_id": number + 1,
        "user_id": int(rng.integers(NUM_USERS)),
        "post_id": post_id,
        "creator_id": post_id % NUM_CREATORS,
        "surface": "explore",
        "position": 0,
        "served_at": at - timedelta(seconds=1),
        "sources": ["popular"],
        "propensity": 0.5,
        "spec_version": "v1",
        "model_versions": "",
        "observed_kinds": None,
        "is_time_imputed": False,
        "event_at": at,
        "known_at": at,
    }


def _engagement(impression: dict, number: int) -> dict:
    at = impression["event_at"] + timedelta(seconds=3)
    shared = {name: impression[name] for name in ("request_id", "user_id", "post_id", "creator_id", "is_time_imputed")}
    click = {"event_id": f"e{number}", "impression_id": impression["event_id"], "kind": "click", "dwell_seconds": 2.0}
    return shared | click | {"event_at": at, "known_at": at}


def plant(settings: Settings, table: str, rows: list[dict], name: str = "planted") -> None:
    """Writes rows past the log's own checks, as a job of another system would."""
    schema = pa.schema([field.with_nullable(True) for field in TABLES[table].arrow])
    file = settings.workspace.log / table / f"day={FIRST_AT:%Y-%m-%d}" / f"{name}.parquet"
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def log_rows(settings: Settings, table: str) -> list[dict]:
    """Every row that is in the table's files."""
    files = sorted((settings.workspace.log / table).glob("day=*/*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def quarantined_rows(settings: Settings, gate: str) -> list[dict]:
    """Every row in quarantine for `gate`, with its reason."""
    files = sorted((settings.workspace.quarantine / gate).glob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
