"""The simulated world as a log: keys, times, rates, and what each seed decides."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import ConfigError, MissingStageError
from core.schema import HEADS, TABLES
from core.workspace import Workspace
from events.journal import Journal, JournalEvent
from events.log import replace_all
from events.synthetic.config import PRESETS
from events.synthetic.follows import Ties
from events.synthetic.generate import draw_world, generate
from events.synthetic.streams import STREAMS, spawn_streams
from events.synthetic.truth import Truth
from tests.synthetic_small import small_config, small_world


def without_names(table):
    return table.replace_schema_metadata(None)


@pytest.mark.parametrize("name", ["users", "creators", "posts", "follows", "requests", "impressions", "engagements"])
def test_every_table_has_its_schema_and_unique_keys(name):
    log, _ = small_world()
    assert log[name].schema.equals(TABLES[name].arrow)
    keys = log[name].select(list(TABLES[name].key))
    assert keys.group_by(keys.column_names).aggregate([]).num_rows == log[name].num_rows > 0


@pytest.mark.parametrize("name", ["users", "creators", "posts", "follows", "requests", "impressions", "engagements"])
def test_nothing_is_known_early_or_happens_after_the_end(name):
    log, _ = small_world()
    end_at = datetime.fromisoformat(small_config().end_at)
    assert pc.all(pc.greater_equal(log[name]["known_at"], log[name]["event_at"])).as_py()
    assert pc.max(log[name]["event_at"]).as_py() < end_at


def test_an_engagement_follows_its_impression_and_names_it():
    log, _ = small_world()
    joined = log["engagements"].join(
        log["impressions"].select(["event_id", "event_at", "served_at", "post_id"]),
        "impression_id",
        "event_id",
        join_type="left outer",
        right_suffix="_seen",
    )
    assert joined["event_at_seen"].null_count == 0
    assert pc.all(pc.greater(joined["event_at"], joined["event_at_seen"])).as_py()
    assert pc.all(pc.greater(joined["event_at_seen"], joined["served_at"])).as_py()
    assert joined["post_id"].equals(joined["post_id_seen"])


def test_posts_are_seen_only_once_published_and_in_a_language_of_the_request():
    log, _ = small_world()
    seen = log["impressions"].select(["post_id", "request_id", "served_at"])
    seen = seen.join(log["posts"].select(["post_id", "created_at", "language", "is_recommendable"]), "post_id")
    seen = seen.join(log["requests"].select(["request_id", "language"]), "request_id", right_suffix="_asked")
    assert pc.all(pc.greater(seen["served_at"], seen["created_at"])).as_py()
    assert seen["language"].equals(seen["language_asked"])
    assert pc.all(seen["is_recommendable"]).as_py()


def test_no_slate_shows_a_post_twice():
    log, _ = small_world()
    pairs = log["impressions"].select(["request_id", "post_id"])
    assert pairs.group_by(["request_id", "post_id"]).aggregate([]).num_rows == pairs.num_rows


def test_dwell_is_logged_on_clicks_and_long_views_alone():
    log, _ = small_world()
    rows = log["engagements"]
    has_dwell = pc.is_in(rows["kind"], pa.array(["click", "long_view"]))
    assert pc.is_valid(rows["dwell_seconds"]).equals(has_dwell)
    assert pc.min(rows["dwell_seconds"]).as_py() > 0


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("click", 0.05, 0.16), ("like", 0.008, 0.03), ("comment", 0.001, 0.015), ("share", 0.001, 0.015),
     ("save", 0.001, 0.015), ("follow", 0.0005, 0.01), ("see_less", 0.0005, 0.006), ("report", 0.0001, 0.004)],
)  # fmt: skip
@pytest.mark.parametrize("preset", ["world", "world_b", "null_world"])
def test_engagement_rates_are_those_of_a_feed(preset, kind, low, high):
    log, _ = small_world(preset)
    count = pc.sum(pc.equal(log["engagements"]["kind"], kind)).as_py()
    assert low < count / log["impressions"].num_rows < high


def test_the_seed_decides_every_byte():
    first, truth = small_world()
    again, other = draw_world(small_config())
    assert all(first[name].equals(again[name]) for name in first)
    assert all(np.array_equal(a, other._arrays()[name]) for name, a in truth._arrays().items())
    reseeded, _ = draw_world(replace(small_config(), seed=1))
    assert not reseeded["impressions"].equals(first["impressions"])


@pytest.mark.parametrize(
    ("part", "field", "value", "untouched"),
    [
        ("people", "num_users", 350, ["creators", "posts"]),
        ("catalogue", "num_posts", 950, ["users", "creators"]),
        ("catalogue", "num_creators", 70, ["users"]),
        ("visits", "num_impressions", 20_000, ["users", "creators", "posts"]),
    ],
)
def test_resizing_one_concern_leaves_the_others_untouched(part, field, value, untouched):
    log, _ = small_world()
    changed, _ = draw_world(small_config(**{part: {field: value}}))
    assert all(changed[name].equals(log[name]) for name in untouched)


def test_streams_are_named_and_differ():
    streams = spawn_streams(7)
    assert tuple(streams) == STREAMS
    assert len({stream.integers(2**62) for stream in streams.values()}) == len(STREAMS)


def test_scaling_multiplies_sizes_and_names_the_version():
    config = PRESETS["world"].scaled(0.5)
    assert (config.people.num_users, config.catalogue.num_posts) == (10_000, 30_000)
    assert (config.catalogue.num_creators, config.visits.num_impressions) == (1_500, 1_000_000)
    with pytest.raises(ConfigError, match="positive"):
        config.scaled(0)


def test_heads_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="in this order"):
        replace(PRESETS["world"], heads=PRESETS["world"].heads[::-1])


def test_generate_writes_log_truth_and_manifest(tmp_path):
    workspace = Workspace(tmp_path / "world")
    config = small_config(visits={"num_impressions": 2_000})
    manifest = generate(config, workspace)
    assert workspace.manifest() == manifest
    assert manifest.anchor_at == datetime.fromisoformat(config.end_at)
    assert manifest.rows["impressions"] > 1_000
    _, truth = draw_world(config)
    users, posts = np.arange(50), np.arange(50)
    loaded = Truth.load(workspace).probabilities(users, posts, config.end_seconds)
    assert np.array_equal(loaded, truth.probabilities(users, posts, config.end_seconds))
    assert not list(workspace.log.glob("**/truth*"))


def test_a_workspace_without_truth_says_what_to_run(tmp_path):
    with pytest.raises(MissingStageError, match="events generate"):
        Truth.load(Workspace(tmp_path))


def test_a_new_follow_holds_from_its_instant_and_a_later_one_is_brought_forward():
    ties = Ties(np.array([5, 9]), np.array([0.0, 100.0]), np.array([50.0, np.inf]), num_creators=4)
    later = ties.with_follows(np.array([9, 6]), since=20.0)
    users, creators = np.array([1, 1, 2]), np.array([1, 2, 1])  # keys 5, 6 and 9
    assert later.is_followed(users, creators, 19.0).tolist() == [True, False, False]
    assert later.is_followed(users, creators, 20.0).tolist() == [True, True, True]
    assert later.is_followed(users, creators, 50.0).tolist() == [False, True, True]


def test_the_log_is_written_by_the_ordinary_writer(tmp_path):
    log, _ = small_world()
    report = replace_all(tmp_path, "follows", log["follows"])
    assert report.num_written == log["follows"].num_rows
    assert report.num_duplicates == 0


def test_truth_has_one_column_per_head():
    _, truth = small_world()
    assert truth.probabilities(np.arange(3), np.arange(3), 1.7e9).shape == (3, len(HEADS))


def test_events_posted_to_another_world_are_set_aside(tmp_path):
    workspace = Workspace(tmp_path / "world")
    first = generate(small_config(), workspace)
    hide = JournalEvent("e1", "hide", 3, first.last_event_at, first.last_event_at, post_id=5)
    journal = Journal(workspace.journal)
    journal.append([hide])
    journal.close()

    generate(small_config(), workspace)
    assert workspace.journal.exists()

    generate(replace(small_config(), seed=1), workspace)
    assert not workspace.journal.exists()
    kept = Journal(workspace.root / f"journal-{first.data_version}.db")
    assert [event.event_id for _, event in kept.since(0, 10)] == ["e1"]
    kept.close()
