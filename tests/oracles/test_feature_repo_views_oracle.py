"""History, affinity and profile views against loops over the events."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.schema import HEADS, MEDIA_TYPES
from core.workspace import Workspace
from feature_repo.build import build_features
from tests.feature_logs import END, START, SmallLog, random_log, settings_of

HOUR = timedelta(hours=1)
LAG = timedelta(minutes=5)
STRENGTH = {"click": 1.0, "long_view": 1.5, "like": 2.0, "comment": 3.0, "save": 3.0, "share": 3.5, "follow": 4.0}


@pytest.fixture(scope="module", params=[11])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallLog, Workspace]:
    log = random_log(request.param, num_impressions=250, num_users=3)
    workspace = log.write(tmp_path_factory.mktemp("var"))
    build_features(workspace, settings_of(workspace))
    return log, workspace


def rows(workspace: Workspace, view: str) -> list[dict]:
    return pq.read_table(workspace.features / view).to_pylist()


def visible(event: dict) -> datetime:
    """End of the event's hour, or the first whole hour at which it had arrived."""
    if "visible" not in event:
        event["visible"] = _visible(event)
    return event["visible"]


def _visible(event: dict) -> datetime:
    at = event["event_at"].replace(minute=0, second=0, microsecond=0) + HOUR
    while at < event["known_at"]:
        at += HOUR
    return at


def entries_of(log: SmallLog, user: int, hour: datetime) -> list[dict]:
    """Engaged posts of the user by post and hour of becoming visible, oldest first."""
    found: dict[tuple, dict] = {}
    for e in log.tables["engagements"]:
        if e["user_id"] != user or e["kind"] not in STRENGTH or visible(e) > hour:
            continue
        entry = found.setdefault(
            (visible(e), e["post_id"]),
            {
                "post": e["post_id"],
                "creator": e["creator_id"],
                "visible": visible(e),
                "at": 0,
                "strength": 0.0,
                "kind": "",
            },
        )
        entry["at"] = max(entry["at"], int(e["event_at"].timestamp()))
        better = (STRENGTH[e["kind"]], -HEADS.index(e["kind"]))
        if not entry["kind"] or better > (entry["strength"], -HEADS.index(entry["kind"])):
            entry.update(strength=STRENGTH[e["kind"]], kind=e["kind"])
    return sorted(found.values(), key=lambda x: (x["visible"], x["at"], x["post"]))


def post_then(log: SmallLog, post: int, hour: datetime) -> dict:
    known = [p for p in log.tables["posts"] if p["post_id"] == post and p["known_at"] <= hour]
    return known[-1] if known else {"topic_id": -1, "media_type": None, "content_embedding": None}


def test_history_is_the_newest_engaged_posts_with_their_strongest_engagement(
    built: tuple[SmallLog, Workspace],
) -> None:
    log, workspace = built
    stored = rows(workspace, "user_history")
    assert len(stored) > 50
    for row in stored:
        entries = entries_of(log, row["user_id"], row["event_at"])[-50:][::-1]
        assert row["history_post_ids"] == [e["post"] for e in entries]
        assert row["history_creator_ids"] == [e["creator"] for e in entries]
        assert row["history_topic_ids"] == [post_then(log, e["post"], e["visible"])["topic_id"] for e in entries]
        assert row["history_kinds"] == [HEADS.index(e["kind"]) for e in entries]
        assert row["history_at"] == [e["at"] for e in entries]
        vectors = [(post_then(log, e["post"], e["visible"])["content_embedding"], e["strength"]) for e in entries]
        weighed = [(np.array(v), w) for v, w in vectors if v is not None]
        if weighed:
            centroid = sum(v * w for v, w in weighed) / sum(w for _, w in weighed)
            assert row["content_centroid"] == pytest.approx(centroid.tolist(), abs=1e-5)
        else:
            assert row["content_centroid"] is None


def test_there_is_a_history_row_after_every_hour_with_a_new_engagement(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    wanted = {
        (e["user_id"], visible(e)) for e in log.tables["engagements"] if e["kind"] in STRENGTH and visible(e) <= END
    }
    for view in ("user_history", "user_affinity"):
        assert {(r["user_id"], r["event_at"]) for r in rows(workspace, view)} == wanted


def test_affinities_are_shares_of_decayed_strength(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    for row in rows(workspace, "user_affinity"):
        hour = row["event_at"]
        entries = entries_of(log, row["user_id"], hour)[-200:]
        weights = [e["strength"] * 0.5 ** ((hour.timestamp() - e["at"]) / 3600 / 168) for e in entries]
        creators: dict[int, float] = {}
        topics: dict[int, float] = {}
        media = dict.fromkeys(MEDIA_TYPES, 0.0)
        for e, w in zip(entries, weights, strict=True):
            post = post_then(log, e["post"], e["visible"])
            creators[e["creator"]] = creators.get(e["creator"], 0.0) + w / sum(weights)
            if post["topic_id"] >= 0:
                topics[post["topic_id"]] = topics.get(post["topic_id"], 0.0) + w / sum(weights)
            if post["media_type"]:
                media[post["media_type"]] += w / sum(weights)
        assert dict(zip(row["top_creator_ids"], row["top_creator_affinities"], strict=True)) == pytest.approx(creators)
        assert dict(zip(row["top_topic_ids"], row["top_topic_affinities"], strict=True)) == pytest.approx(topics)
        assert row["media_type_affinities"] == pytest.approx([media[m] for m in MEDIA_TYPES])
        assert row["top_creator_affinities"] == sorted(row["top_creator_affinities"], reverse=True)


def followed_at(log: SmallLog, user: int, hour: datetime) -> set[int]:
    """Creators the user follows by the events visible then; the latest event about a pair holds."""
    followed = set()
    for creator in range(3):
        events = [
            f
            for f in log.tables["follows"]
            if f["user_id"] == user and f["creator_id"] == creator and visible(f) <= hour
        ]
        if events and max(events, key=lambda f: (f["event_at"], f["event_id"]))["is_active"]:
            followed.add(creator)
    return followed


def followed_centroid(log: SmallLog, followed: set[int], hour: datetime) -> Any:
    """Mean over the creators of the mean embedding of their posts visible at `hour`; None without any."""
    means = []
    for creator in followed:
        shown = [
            p["content_embedding"] for p in log.tables["posts"] if p["creator_id"] == creator and visible(p) <= hour
        ]
        shown = [e for e in shown if e is not None]
        if shown:
            means.append(np.mean(shown, axis=0))
    return pytest.approx(np.mean(means, axis=0).tolist(), abs=1e-5) if means else None


def test_user_profiles_hold_the_profile_and_follows_known_by_then(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    stored = rows(workspace, "user_profile")
    assert {(r["user_id"], r["event_at"]) for r in stored} >= {
        (u["user_id"], u["known_at"]) for u in log.tables["users"] if u["known_at"] <= END
    }
    for row in stored:
        published = row["known_at"] - LAG
        hour = published.replace(minute=0, second=0, microsecond=0)
        followed = followed_at(log, row["user_id"], hour)
        assert row["num_follows"] == len(followed)
        assert set(row["followed_creator_ids"]) == followed
        assert row["followed_centroid"] == followed_centroid(log, followed, hour)
        known = [u for u in log.tables["users"] if u["user_id"] == row["user_id"] and u["known_at"] <= row["event_at"]]
        profile = max(known, key=lambda u: u["known_at"])
        assert (row["country"], row["language"]) == (profile["country"], profile["language"])


def test_follows_change_the_profile_in_every_hour_in_which_they_changed(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    stored = rows(workspace, "user_profile")
    for user in range(3):
        mine = sorted((r for r in stored if r["user_id"] == user), key=lambda r: r["event_at"])
        for follow in log.tables["follows"]:
            hour = visible(follow)
            if follow["user_id"] == user and hour <= END:
                latest = [r for r in mine if r["event_at"] <= hour][-1]
                assert set(latest["followed_creator_ids"]) == followed_at(log, user, hour)


def test_creator_profiles_count_followers_and_posts(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    for row in rows(workspace, "creator_profile"):
        hour = (row["known_at"] - LAG).replace(minute=0, second=0, microsecond=0)
        mine = row["creator_id"]
        assert row["num_followers"] == sum(mine in followed_at(log, user, hour) for user in range(3))
        posts = [p for p in log.tables["posts"] if p["creator_id"] == mine and visible(p) <= hour]
        assert row["num_posts"] == len(posts)
        assert row["num_posts_7d"] == sum(hour - 168 * HOUR <= p["created_at"] for p in posts)


def test_the_catalogue_streams_with_its_own_known_time(built: tuple[SmallLog, Workspace]) -> None:
    log, workspace = built
    stored = {r["post_id"]: r for r in rows(workspace, "post_profile")}
    assert set(stored) == {p["post_id"] for p in log.tables["posts"]}
    for post in log.tables["posts"]:
        row = stored[post["post_id"]]
        assert (row["event_at"], row["known_at"]) == (post["event_at"], post["known_at"])
        assert row["created_at"] == int(post["created_at"].timestamp())
        assert row["content_codes"] == post["content_codes"]


def test_an_unfollow_that_arrives_after_a_later_follow_changes_nothing(tmp_path: Path) -> None:
    log = random_log(3, num_impressions=5, num_users=1, is_awkward=False)
    follow, unfollow = log.tables["follows"][:2]
    log.tables["follows"] = [follow, unfollow]
    at = START + 50 * HOUR
    follow.update(creator_id=1, is_active=True, event_at=at, known_at=at)
    unfollow.update(creator_id=1, is_active=False, event_at=at - 5 * HOUR, known_at=at + 9 * HOUR)
    workspace = log.write(tmp_path)
    build_features(workspace, settings_of(workspace))
    last = max(rows(workspace, "user_profile"), key=lambda r: r["event_at"])
    assert last["followed_creator_ids"] == [1]
    creator = max((r for r in rows(workspace, "creator_profile") if r["creator_id"] == 1), key=lambda r: r["event_at"])
    assert creator["num_followers"] == 1
