"""Makes a world: draws people and catalogue, runs it, writes its log, its truth and its manifest."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.progress import Progress

from core.files import content_hash
from core.workspace import DatasetManifest, Workspace
from events.log import replace_all
from events.synthetic import tables
from events.synthetic.config import WorldConfig
from events.synthetic.creators import draw_creators
from events.synthetic.engagement import build_truth
from events.synthetic.follows import Ties, draw_ties
from events.synthetic.policy import LoggingPolicy
from events.synthetic.posts import Posts, draw_posts
from events.synthetic.sessions import draw_requests
from events.synthetic.simulate import simulate
from events.synthetic.streams import spawn_streams
from events.synthetic.topics import Topics, draw_topics
from events.synthetic.trends import draw_trends
from events.synthetic.truth import Truth
from events.synthetic.users import PROFILE_CODES, Users, draw_users

GENERATOR_VERSION = "1"
"""Raised whenever equal configs would make another log than before."""


def generate(config: WorldConfig, workspace: Workspace, progress: Progress | None = None) -> DatasetManifest:
    """The manifest of the world just written to the workspace: log/, truth/ and dataset.json."""
    shown = progress or Progress(disable=True)
    task = shown.add_task(f"world {config.name}: people and posts", total=100)
    log, truth = draw_world(config, lambda share: shown.update(task, completed=5 + 80 * share, description="visits"))
    truth.save(workspace)
    for done, (name, rows) in enumerate(log.items(), start=1):
        shown.update(task, description=f"writing {name}")
        replace_all(workspace.log, name, rows)
        shown.update(task, completed=85 + 15 * done / len(log))
    manifest = _manifest(config, log)
    _set_live_files_aside(workspace, manifest.data_version)
    workspace.write_manifest(manifest)
    return manifest


def _set_live_files_aside(workspace: Workspace, data_version: str) -> None:
    """Keeps what was served and posted in another world out of this one: the same numbers name others there."""
    if not workspace.manifest_path.exists():
        return
    # Compacting appends "+<place>" to the version; the world is still the same one.
    previous = workspace.manifest().data_version.partition("+")[0]
    if previous == data_version:
        return
    for live in (workspace.journal, workspace.served):
        for suffix in ("", "-wal", "-shm"):
            file = live.with_name(live.name + suffix)
            if file.exists():
                file.replace(file.with_name(f"{live.stem}-{previous}.db{suffix}"))


def draw_world(
    config: WorldConfig, advance: Callable[[float], None] = lambda _: None
) -> tuple[dict[str, pa.Table], Truth]:
    """The world's log by table and its truth, in memory; `advance` hears the share done."""
    streams = spawn_streams(config.seed)
    topics = draw_topics(config, streams["topics"])
    users = draw_users(config, topics, streams["users"], streams["user_interests"])
    creators = draw_creators(config, topics, streams["creators"])
    posts = draw_posts(config, topics, creators, streams["posts"], streams["post_content"])
    ties = draw_ties(config, topics, users, creators, streams["follows"])
    truth = build_truth(config, topics, users, posts, ties, draw_trends(config, topics, streams["trends"]))
    requests = draw_requests(config, users, streams["sessions"])
    policy = LoggingPolicy(config, posts, topics.num_leaves, _affinity_prior(config, topics, users, posts, ties))
    seen, truth = simulate(config, truth, posts, policy, requests, streams, advance)
    log = {
        "users": tables.users_table(config, users),
        "creators": tables.creators_table(config, creators),
        "posts": tables.posts_table(config, posts),
        "follows": tables.follows_table(config, ties, posts, requests, seen),
        "requests": tables.requests_table(config, users, requests),
        "impressions": tables.impressions_table(posts, requests, seen),
        "engagements": tables.engagements_table(posts, requests, seen),
    }
    return log, truth


def _affinity_prior(config: WorldConfig, topics: Topics, users: Users, posts: Posts, ties: Ties) -> NDArray[np.float32]:
    """Pseudo-clicks [users, leaves] known before the simulation: onboarding answers, and early follows.

    A follow speaks for the topic its creator is most often classified as.
    """
    prior = np.zeros((users.count, topics.num_leaves), dtype=np.float32)
    counts = np.zeros((ties.num_creators, topics.num_leaves))
    np.add.at(counts, (posts.creator, posts.topic_id), 1.0)
    early = ties.since < config.start_seconds
    user, creator = ties.keys[early] // ties.num_creators, ties.keys[early] % ties.num_creators
    np.add.at(prior, (user, counts.argmax(axis=1)[creator]), np.float32(config.policy.follow_weight))
    onboarding = users.profile_codes[:, PROFILE_CODES.index("onboarding_topic")]
    told = np.flatnonzero(onboarding >= 0)
    leaves = onboarding[told, None] * topics.num_subtopics + np.arange(topics.num_subtopics)
    prior[told[:, None], leaves] += np.float32(1.0 / topics.num_subtopics)
    return prior


def _manifest(config: WorldConfig, log: dict[str, pa.Table]) -> DatasetManifest:
    """What was written; the version is the hash of generator and config."""
    end_at = datetime.fromisoformat(config.end_at).astimezone(UTC)
    instants = pc.min_max(log["impressions"]["event_at"]) if len(log["impressions"]) else None
    plain = config.to_dict()
    return DatasetManifest(
        name=config.name,
        kind="world",
        data_version=content_hash([GENERATOR_VERSION, repr(sorted(plain.items()))]),
        anchor_at=end_at,
        first_event_at=instants["min"].as_py() if instants else end_at,
        last_event_at=instants["max"].as_py() if instants else end_at,
        rows={name: len(rows) for name, rows in log.items()},
        config=plain,
    )
