"""Small event logs with every awkwardness features must survive: late, imputed and partly observed events, changes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.schema import CONTENT_DIM, HEADS, MEDIA_TYPES, TABLES
from core.settings import Settings
from core.workspace import DatasetManifest, Workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 12
END = START + timedelta(days=DAYS)

Row = dict[str, object]


@dataclass
class SmallLog:
    """Rows of each table as Python dictionaries."""

    tables: dict[str, list[Row]]

    def write(self, var_dir: Path, dataset: str = "small", anchor_at: datetime = END) -> Workspace:
        workspace = Workspace(var_dir / dataset)
        for name, rows in self.tables.items():
            folder = workspace.log / name / "day=2026-03-01"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[name].arrow), folder / "rows.parquet")
        workspace.write_manifest(DatasetManifest(dataset, "world", "v1", anchor_at, START, END, {}, {}))
        return workspace


def settings_of(workspace: Workspace) -> Settings:
    return Settings(var_dir=workspace.root.parent, dataset=workspace.root.name, num_threads=2)


def random_log(
    seed: int, num_impressions: int = 150, num_users: int = 5, num_posts: int = 9, is_awkward: bool = True
) -> SmallLog:
    """A log over 12 days; `is_awkward` adds late arrivals, imputed times, unobserved kinds and profile changes."""
    rng = np.random.default_rng(seed)
    num_creators = 3

    def moment(low: float = 0.0, high: float = DAYS * 24.0) -> datetime:
        # Whole hours are the edges at which windows open and close, so many events fall on them exactly.
        hours = float(rng.uniform(low, high))
        exact = round(hours) if rng.random() < 0.2 else hours
        return START + timedelta(seconds=int(min(exact, high - 0.01) * 3600))

    def known(at: datetime) -> datetime:
        if is_awkward and rng.random() < 0.25:
            return at + timedelta(seconds=int(rng.choice([60, 3600, 90_000, 800_000])))
        return at

    users: list[Row] = []
    for user in range(num_users):
        for change in range(1 + int(is_awkward and rng.random() < 0.5)):
            at = START - timedelta(days=3 + user) if change == 0 else moment()
            users.append(
                {
                    "user_id": user,
                    "external_id": str(user),
                    "country": str(rng.choice(["DE", "BR"])),
                    "language": None if rng.random() < 0.2 else str(rng.choice(["de", "pt"])),
                    "profile_codes": [user, change],
                    "event_at": at,
                    "known_at": at if change == 0 else known(at),
                }
            )
    creators: list[Row] = [
        {
            "creator_id": c,
            "external_id": str(c),
            "country": "DE",
            "language": "de",
            "event_at": START - timedelta(days=9),
            "known_at": START - timedelta(days=9),
        }
        for c in range(num_creators)
    ]
    posts: list[Row] = []
    owner = {p: int(rng.integers(num_creators)) for p in range(num_posts)}
    for post in range(num_posts):
        created = moment(-100.0)
        vector = rng.normal(size=CONTENT_DIM)
        posts.append(
            {
                "post_id": post,
                "external_id": str(post),
                "creator_id": owner[post],
                "created_at": created,
                "media_type": str(rng.choice(MEDIA_TYPES)),
                "language": "de",
                "country": "DE",
                "topic_id": int(rng.integers(-1, 4)),
                "duration_seconds": 3.5,
                "integrity_score": 0.9,
                "is_recommendable": True,
                "content_codes": [1, 2],
                "content_embedding": None
                if rng.random() < 0.2
                else (vector / np.linalg.norm(vector)).astype(np.float32).tolist(),
                "event_at": created,
                "known_at": created,
            }
        )
    follows: list[Row] = []
    for number in range(num_users * 6):
        at = moment()
        follows.append(
            {
                "event_id": f"f{number:03d}",
                "user_id": int(rng.integers(num_users)),
                "creator_id": int(rng.integers(num_creators)),
                "is_active": bool(rng.random() < 0.7),
                "event_at": at,
                "known_at": known(at),
            }
        )
    impressions: list[Row] = []
    engagements: list[Row] = []
    for number in range(num_impressions):
        at = moment()
        post = int(rng.integers(num_posts))
        user = int(rng.integers(num_users))
        is_imputed = bool(is_awkward and rng.random() < 0.1)
        observed = ["click", "like"] if is_awkward and rng.random() < 0.2 else None
        impressions.append(
            {
                "event_id": f"i{number}",
                "request_id": number + 1,
                "user_id": user,
                "post_id": post,
                "creator_id": owner[post],
                "surface": "explore",
                "position": 0,
                "served_at": at,
                "sources": None,
                "propensity": 0.5,
                "spec_version": "t",
                "model_versions": None,
                "observed_kinds": observed,
                "is_time_imputed": is_imputed,
                "event_at": at,
                "known_at": known(at),
            }
        )
        for kind in HEADS:
            if rng.random() < 0.15 and (observed is None or kind in observed):
                acted = min(at + timedelta(seconds=int(rng.integers(0, 5000))), END - timedelta(seconds=1))
                engagements.append(
                    {
                        "event_id": f"e{number}{kind}",
                        "impression_id": f"i{number}",
                        "request_id": number + 1,
                        "user_id": user,
                        "post_id": post,
                        "creator_id": owner[post],
                        "kind": kind,
                        "dwell_seconds": 2.0,
                        "is_time_imputed": is_imputed,
                        "event_at": acted,
                        "known_at": known(acted),
                    }
                )
    return SmallLog(
        {
            "users": users,
            "creators": creators,
            "posts": posts,
            "follows": follows,
            "impressions": impressions,
            "engagements": engagements,
        }
    )
