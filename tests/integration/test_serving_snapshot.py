"""The snapshot built from a small log, against values counted by hand and by plain Python."""

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from core.errors import BundleError, MissingStageError
from core.schema import CONTENT_DIM, TABLES
from events.log import replace_all
from serving.snapshot import find_rows, load_snapshot, save_snapshot
from serving.snapshot_build.build import build_snapshot
from tests.serving_fakes import AS_OF, make_settings, make_snapshot

WEIGHTS = {"click": 1.0, "like": 2.0, "see_less": -8.0}
POSTS = [10, 20, 30, 40, 50]
USERS = [1, 2, 3, 4]
LANGUAGES = {1: "en", 2: "en", 3: "es", 4: None}


def hours_ago(hours):
    return AS_OF - timedelta(hours=hours)


def table(name, rows):
    schema = TABLES[name].arrow
    filled = [{field.name: None for field in schema} | row for row in rows]
    for row in filled:
        row["known_at"] = row["known_at"] or row["event_at"]
    return pa.Table.from_pylist(filled, schema=schema)


def post(post_id, **fields):
    vector = [0.0] * CONTENT_DIM
    vector[post_id // 10] = 1.0
    base = {
        "post_id": post_id, "external_id": f"p-{post_id}", "creator_id": post_id // 20, "created_at": hours_ago(200),
        "media_type": "video", "language": "en", "country": "US", "topic_id": post_id // 10, "duration_seconds": 9.0,
        "integrity_score": 0.9, "is_recommendable": True, "content_codes": [], "content_embedding": vector,
        "event_at": hours_ago(200),
    }  # fmt: skip
    return base | fields


def impression(number, user, post_id, hours, **fields):
    return {
        "event_id": f"i{number}", "user_id": user, "post_id": post_id, "creator_id": post_id // 20,
        "surface": "explore", "is_time_imputed": False, "event_at": hours_ago(hours),
    } | fields  # fmt: skip


def engagement(number, user, post_id, kind, hours, **fields):
    return {
        "event_id": f"e{number}", "user_id": user, "post_id": post_id, "creator_id": post_id // 20, "kind": kind,
        "is_time_imputed": False, "event_at": hours_ago(hours),
    } | fields  # fmt: skip


LIKES = [(1, 10, "like", 1), (1, 20, "click", 2), (2, 10, "click", 3), (2, 20, "click", 4), (3, 10, "like", 30)]
OTHERS = [
    engagement(10, 3, 40, "hide", 5),
    engagement(11, 3, 50, "block", 5),
    engagement(12, 4, 30, "see_less", 5),
    engagement(13, 1, 30, "like", -1, event_at=AS_OF, known_at=AS_OF + timedelta(minutes=1)),  # not known yet
    engagement(14, 2, 50, "like", 24 * 9),  # before the week of popular
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = make_settings(tmp_path_factory.mktemp("snapshot"))
    log = settings.workspace.log
    users = [
        {
            "user_id": u, "external_id": f"u-{u}", "country": "US", "language": LANGUAGES[u], "profile_codes": [],
            "event_at": hours_ago(300),
        }
        for u in USERS
    ]  # fmt: skip
    creators = [
        {"creator_id": c, "external_id": str(c), "country": "US", "language": "en", "event_at": hours_ago(300)}
        for c in (0, 1, 2)
    ]
    posts = [
        post(10),
        post(20),
        post(30, integrity_score=None, content_embedding=None, language=None),
        post(40),
        post(50),
        post(50, is_recommendable=False, event_at=hours_ago(1)),  # the later row holds
    ]
    engagements = [engagement(i, *row) for i, row in enumerate(LIKES)] + OTHERS
    impressions = [impression(i, user, post_id, hours) for i, (user, post_id, _, hours) in enumerate(LIKES)] + [
        impression(20, 4, 40, 24 * 20),  # too long ago to be seen
        impression(21, 4, 20, 2, is_time_imputed=True, surface="unknown"),
    ]
    follows = [
        {"event_id": "f1", "user_id": 1, "creator_id": 2, "is_active": True, "event_at": hours_ago(9)},
        {"event_id": "f2", "user_id": 1, "creator_id": 1, "is_active": True, "event_at": hours_ago(9)},
        {"event_id": "f3", "user_id": 1, "creator_id": 1, "is_active": False, "event_at": hours_ago(8)},
    ]
    for name, rows in (
        ("users", users), ("creators", creators), ("posts", posts), ("engagements", engagements),
        ("impressions", impressions), ("follows", follows),
    ):  # fmt: skip
        replace_all(log, name, table(name, rows))
    return settings


@pytest.fixture(scope="module")
def snapshot(settings):
    return build_snapshot(settings, WEIGHTS)


def listed(snapshot, lists, segment):
    rows, weights = lists.list_of(segment), lists.weights_of(segment)
    return {int(snapshot.catalogue.post_ids[r]): float(w) for r, w in zip(rows, weights, strict=True)}


def test_catalogue_holds_the_latest_row_of_every_post(snapshot):
    catalogue = snapshot.catalogue
    assert catalogue.post_ids.tolist() == POSTS
    assert catalogue.is_recommendable.tolist() == [True, True, True, True, False]
    assert catalogue.integrity.tolist() == pytest.approx([0.9, 0.9, 1.0, 0.9, 0.9])
    assert catalogue.language_codes[2] == -1
    assert catalogue.content[2].tolist() == [0.0] * CONTENT_DIM
    assert catalogue.content[1, 2] == 1.0
    assert catalogue.num_impressions.tolist() == [3, 3, 0, 1, 0]
    assert catalogue.rows_of(np.array([30, 11])).tolist() == [2, -1]


def test_trending_is_the_decayed_sum_of_positive_value(snapshot):
    decayed = {10: 0.0, 20: 0.0}
    for _, post_id, kind, hours in LIKES:
        decayed[post_id] += WEIGHTS[kind] * 0.5 ** (hours / 6)
    assert listed(snapshot, snapshot.lists.trending, 0) == pytest.approx(decayed, rel=1e-5)


def test_popular_counts_the_segment_of_the_viewer(snapshot):
    english = snapshot.catalogue.language_code("en")
    spanish = snapshot.catalogue.language_code("es")
    assert listed(snapshot, snapshot.lists.popular, 0) == {10: 5.0, 20: 2.0}
    assert listed(snapshot, snapshot.lists.popular_by_language, english) == {10: 3.0, 20: 2.0}
    assert listed(snapshot, snapshot.lists.popular_by_language, spanish) == {10: 2.0}


def test_neighbours_are_posts_of_the_same_users(snapshot):
    # 10 was engaged with by users 1, 2, 3; 20 by 1, 2; 50 by 2: together / sqrt(n m) * together / (together + 5)
    near_ten = listed(snapshot, snapshot.lists.neighbours, 0)
    assert near_ten == pytest.approx({20: 2 / np.sqrt(6) * 2 / 7, 50: 1 / np.sqrt(3) / 6}, rel=1e-5)
    assert listed(snapshot, snapshot.lists.neighbours, 3) == {}


def test_users_seen_hidden_blocked_and_followed(snapshot):
    users, catalogue = snapshot.users, snapshot.catalogue
    assert users.user_ids.tolist() == USERS
    seen = [catalogue.post_ids[users.seen.list_of(row)].tolist() for row in range(4)]
    assert seen == [[10, 20], [10, 20], [10], []]
    assert users.seen.weights_of(0).tolist() == [3600.0, 7200.0]
    assert catalogue.post_ids[users.hidden.list_of(2)].tolist() == [40]
    assert catalogue.post_ids[users.hidden.list_of(3)].tolist() == [30]
    assert users.blocked.list_of(2).tolist() == [2]
    assert users.followed.list_of(0).tolist() == [2]
    assert users.row_of(3) == 2
    assert users.row_of(77) == -1


def test_outside_ids_and_sample_users(snapshot):
    assert [snapshot.external_post_id(row) for row in range(5)] == [f"p-{i}" for i in POSTS]
    assert snapshot.external_creator_id(4) == "2"
    assert {user.external_id for user in snapshot.sample_users} == {"u-1", "u-2", "u-3"}
    assert snapshot.surfaces == ("explore",)


def test_building_twice_gives_the_same_snapshot(settings, snapshot):
    again = build_snapshot(settings, WEIGHTS)
    assert again.snapshot_id == snapshot.snapshot_id
    np.testing.assert_array_equal(again.lists.neighbours.values, snapshot.lists.neighbours.values)


def test_snapshot_comes_back_from_disk_as_it_was(tmp_path, snapshot):
    workspace = make_settings(tmp_path).workspace
    save_snapshot(workspace, snapshot)
    loaded = load_snapshot(workspace)
    assert loaded.snapshot_id == snapshot.snapshot_id
    assert loaded.sample_users == snapshot.sample_users
    assert loaded.catalogue.languages == snapshot.catalogue.languages
    assert loaded.external_post_id(3) == "p-40"
    assert loaded.external_post_ids is not None
    for name in ("neighbours", "trending", "popular_by_country"):
        for part, other in zip(getattr(loaded.lists, name), getattr(snapshot.lists, name), strict=True):
            np.testing.assert_array_equal(part, other)
    np.testing.assert_array_equal(loaded.catalogue.content, snapshot.catalogue.content)


def test_an_old_snapshot_serves_until_the_new_one_is_whole(tmp_path, snapshot, monkeypatch):
    workspace = make_settings(tmp_path).workspace
    save_snapshot(workspace, make_snapshot())
    monkeypatch.setattr("serving.snapshot.write_atomically", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_snapshot(workspace, snapshot)
    assert load_snapshot(workspace).snapshot_id == "snapshot-1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "post.creator_ids.npy").unlink(),
        lambda folder: (folder / "post.creator_ids.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: np.save(folder / "post.creator_ids.npy", np.arange(3)),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"format": 99})),
        lambda folder: (folder.parent / "current.json").write_text("[]"),
    ],
)
def test_a_damaged_snapshot_is_refused(tmp_path, damage):
    workspace = make_settings(tmp_path).workspace
    damage(save_snapshot(workspace, make_snapshot()))
    with pytest.raises(BundleError, match="python -m serving snapshot"):
        load_snapshot(workspace)


def test_a_missing_snapshot_names_the_command(tmp_path):
    with pytest.raises(MissingStageError, match="python -m serving snapshot"):
        load_snapshot(make_settings(tmp_path).workspace)


def test_an_empty_log_gives_an_empty_snapshot(tmp_path):
    snapshot = build_snapshot(make_settings(tmp_path), WEIGHTS)
    assert len(snapshot.catalogue) == 0
    assert len(snapshot.users.user_ids) == 0


def test_rows_of_ids_by_plain_search():
    ids = np.array([2, 5, 9])
    assert find_rows(ids, np.array([9, 3, 2, -1, 10])).tolist() == [2, -1, 0, -1, -1]
    assert find_rows(ids[:0], np.array([1])).tolist() == [-1]
