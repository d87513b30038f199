from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from core.errors import ConfigError, InputError
from core.ids import internal_id
from core.settings import Settings
from events.importers.own import import_own
from events.read import connect, register_log

NOW = datetime(2024, 6, 1, tzinfo=UTC)
VIEWS = {"file": "views.csv", "columns": {"user_id": "visitor", "post_id": "item", "event_at": "at"}}
ACTIONS = {
    "file": "actions.csv",
    "columns": {"user_id": "visitor", "post_id": "item", "event_at": "at", "kind": "action"},
    "values": {"kind": {"heart": "like", "buy": "save", "scroll": None}},
}


class Shop:
    """A team's folder of files and its workspace."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = Settings(var_dir=folder / "var", dataset="shop", num_threads=1)

    def file(self, name, *lines):
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def run(self, is_dry_run=False, **mapping):
        path = self.folder / "mapping.yaml"
        path.write_text(yaml.safe_dump(mapping, sort_keys=False))
        return import_own(path, self.folder, self.settings.workspace, NOW, is_dry_run=is_dry_run)

    def query(self, sql):
        with connect(self.settings) as connection:
            register_log(connection, self.settings.workspace.log)
            return connection.sql(sql).fetchall()

    def reasons(self):
        files = (self.settings.workspace.quarantine / "import").glob("*.parquet")
        rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        return sorted((row["table"], row["row"], row["reason"]) for row in rows)


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    made.file("views.csv", "visitor,item,at", "ann,hat,2024-05-01T10:00:00Z", "bob,cap,2024-05-02T11:00:00Z")
    return made


def test_impressions_alone_make_a_dataset_with_users_posts_and_creators_of_their_own(shop):
    report = shop.run(impressions=VIEWS)
    assert report.tables == {"users": 2, "creators": 2, "posts": 2, "impressions": 2}
    assert shop.query("SELECT external_id, user_id FROM users ORDER BY 1") == [
        ("ann", internal_id("ann")),
        ("bob", internal_id("bob")),
    ]
    posts = shop.query("SELECT external_id, creator_id, created_at FROM posts ORDER BY 1")
    assert posts[1] == ("hat", internal_id("creator_of_post_hat"), datetime(2024, 5, 1, 10, tzinfo=UTC))
    assert shop.query("SELECT DISTINCT surface FROM impressions") == [("explore",)]
    assert report.manifest.anchor_at == datetime(2024, 5, 2, 11, tzinfo=UTC)


def test_a_refused_row_founds_no_user_and_no_post(shop):
    shop.file("views.csv", "visitor,item,at", "ann,hat,2024-05-01T10:00:00Z", "eve,mug,never", "kim,cup,2031-01-01")
    assert shop.run(impressions=VIEWS).tables == {"users": 1, "creators": 1, "posts": 1, "impressions": 1}


def test_live_data_has_no_anchor(shop):
    assert shop.run(impressions=VIEWS, is_live=True).manifest.anchor_at is None


def test_their_words_become_our_kinds_and_unwanted_ones_are_left_out_and_counted(shop):
    shop.file(
        "actions.csv",
        "visitor,item,at,action",
        "ann,hat,2024-05-01T10:00:05Z,heart",
        "ann,hat,2024-05-01T10:00:06Z,buy",
        "ann,hat,2024-05-01T10:00:07Z,scroll",
        "ann,hat,2024-05-01T10:00:08Z,share",
        "ann,hat,2024-05-01T10:00:09Z,wink",
    )
    report = shop.run(impressions=VIEWS, engagements=ACTIONS)
    assert shop.query("SELECT kind FROM engagements ORDER BY event_at") == [("like",), ("save",), ("share",)]
    assert report.notes == ["engagements: 1 rows left out, the mapping turns a value of theirs to null"]
    assert [reason[2][:17] for reason in shop.reasons()] == ["kind: not one of "]
    assert shop.query("SELECT DISTINCT observed_kinds FROM impressions") == [(["like", "share", "save"],)]


def test_an_engagement_is_tied_to_the_last_impression_before_it(shop):
    shop.file(
        "views.csv",
        "visitor,item,at,id",
        "ann,hat,2024-05-01T10:00:00Z,first",
        "ann,hat,2024-05-01T12:00:00Z,second",
        "ann,cap,2024-05-01T12:30:00Z,other",
        "bob,hat,2024-05-01T12:30:00Z,bobs",
    )
    shop.file(
        "actions.csv",
        "visitor,item,at,action",
        "ann,hat,2024-05-01T11:00:00Z,like",
        "ann,hat,2024-05-01T12:00:00Z,like",
        "ann,hat,2024-05-03T12:00:00Z,share",
        "ann,hat,2024-05-01T09:00:00Z,like",
        "bob,cap,2024-05-01T09:00:00Z,like",
    )
    views = VIEWS | {"columns": VIEWS["columns"] | {"event_id": "id"}}
    report = shop.run(impressions=views, engagements=ACTIONS)
    assert shop.query("SELECT impression_id FROM engagements ORDER BY event_at NULLS LAST") == [
        (None,),
        ("first",),
        ("second",),
        ("second",),
    ]
    assert shop.reasons() == [("engagements", 4, "event_at: engagement before its impression")]
    assert report.notes == ["engagements: 1 rows match no impression; taken as actions outside a feed"]


def test_an_engagement_may_name_its_impression_and_a_wrong_name_is_quarantined(shop):
    shop.file("views.csv", "visitor,item,at,id", "ann,hat,2024-05-01T10:00:00Z,v1")
    shop.file(
        "actions.csv",
        "visitor,item,at,action,view",
        "ann,hat,2024-05-01T10:01:00Z,like,v1",
        "ann,hat,2024-05-01T10:02:00Z,like,v9",
        "ann,hat,2024-05-01T09:00:00Z,like,v1",
    )
    views = VIEWS | {"columns": VIEWS["columns"] | {"event_id": "id"}}
    actions = ACTIONS | {"columns": ACTIONS["columns"] | {"impression_id": "view"}}
    shop.run(impressions=views, engagements=actions)
    assert shop.query("SELECT impression_id FROM engagements") == [("v1",)]
    assert shop.reasons() == [
        ("engagements", 2, "impression_id: not in impressions"),
        ("engagements", 3, "event_at: engagement before its impression"),
    ]


def test_engagements_may_be_columns_of_the_impressions(shop):
    shop.file(
        "views.csv",
        "visitor,item,at,clicked,loved,secs",
        "ann,hat,2024-05-01T10:00:00Z,1,0,12.5",
        "bob,hat,2024-05-01T10:00:00Z,0,,0",
    )
    views = VIEWS | {"labels": {"click": "clicked", "like": "loved"}}
    views["columns"] = views["columns"] | {"dwell_seconds": "secs"}
    shop.run(impressions=views)
    assert shop.query("SELECT kind, dwell_seconds FROM engagements") == [("click", 12.5)]
    observed = shop.query("SELECT observed_kinds FROM impressions ORDER BY user_id")
    assert sorted(observed) == [(["click"],), (["click", "like"],)]


def test_bad_rows_are_quarantined_with_the_reason(shop):
    shop.file(
        "views.csv",
        "visitor,item,at,id",
        "ann,hat,2024-05-01T10:00:00Z,a",
        ",hat,2024-05-01T10:00:00Z,b",
        "ann,,2024-05-01T10:00:00Z,c",
        "ann,hat,noon,d",
        "ann,hat,2025-05-01T10:00:00Z,e",
        "ann,hat,1970-01-20T10:00:00Z,f",
        "ann,hat,2024-05-01T11:00:00Z,a",
        "ann,mug,2024-05-01T10:00:00Z,g",
        "eve,hat,2024-05-01T10:00:00Z,h",
        "ann,hat,2024",
    )
    shop.file("users.csv", "id", "ann", "ann", "bob")
    shop.file("items.csv", "id,made", "hat,2024-04-01", "cap,someday")
    views = VIEWS | {"columns": VIEWS["columns"] | {"event_id": "id"}}
    users = {"file": "users.csv", "columns": {"user_id": "id"}}
    posts = {"file": "items.csv", "columns": {"post_id": "id", "created_at": "made"}}
    report = shop.run(impressions=views, users=users, posts=posts)
    assert report.tables["impressions"] == 1
    assert shop.reasons() == [
        ("impressions", 2, "user_id: null"),
        ("impressions", 3, "post_id: null"),
        ("impressions", 4, "event_at: not an instant (iso)"),
        ("impressions", 5, "event_at: in the future"),
        ("impressions", 6, "event_at: before 2000; is the unit right?"),
        ("impressions", 7, "event_id: duplicate id"),
        ("impressions", 8, "post_id: not in posts"),
        ("impressions", 9, "user_id: not in users"),
        ("impressions", 10, "line has not the header's 4 values"),
        ("posts", 2, "created_at: not an instant (iso)"),
        ("users", 2, "user_id: duplicate id"),
    ]


def test_the_same_act_at_the_same_instant_without_an_id_is_quarantined(shop):
    shop.file("views.csv", "visitor,item,at", *["ann,hat,2024-05-01T10:00:00Z"] * 2)
    assert shop.run(impressions=VIEWS).tables["impressions"] == 1
    assert "no event_id to tell them apart" in shop.reasons()[0][2]


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ({"format": "unix_s"}, "1714557600"),
        ({"format": "unix_s"}, "1714557600.0"),
        ({"format": "unix_ms"}, "1714557600000"),
        ({"format": "unix_us"}, "1714557600000000"),
        ({"format": "%d.%m.%Y %H:%M"}, "01.05.2024 10:00"),
        ({"zone": "Europe/Paris"}, "2024-05-01 12:00:00"),
        ({"format": "%d.%m.%Y %H:%M", "zone": "Europe/Paris"}, "01.05.2024 12:00"),
        ({"zone": "Europe/Paris"}, "2024-05-01T10:00:00Z"),
    ],
)
def test_instants_are_read_in_the_mapped_format_and_zone(shop, time, text):
    shop.file("views.csv", "visitor,item,at", f"ann,hat,{text}")
    shop.run(impressions=VIEWS, time=time)
    assert shop.query("SELECT event_at FROM impressions") == [(datetime(2024, 5, 1, 10, tzinfo=UTC),)]


def test_parquet_files_patterns_and_typed_columns_are_read(shop):
    at = pa.array([datetime(2024, 5, 1, 10, tzinfo=UTC)], pa.timestamp("ns", "UTC"))
    for name, user in (("v1.parquet", 7), ("v2.parquet", 8)):
        pq.write_table(pa.table({"visitor": [user], "item": [1.0], "at": at}), shop.folder / name)
    shop.run(impressions=VIEWS | {"file": "v*.parquet"})
    assert shop.query("SELECT user_id, event_at FROM impressions ORDER BY 1") == [
        (7, datetime(2024, 5, 1, 10, tzinfo=UTC)),
        (8, datetime(2024, 5, 1, 10, tzinfo=UTC)),
    ]


def test_posts_carry_attributes_and_unit_embeddings_of_our_width(shop):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((2, 100))
    vectors[1] = vectors[0] * 3
    table = {"id": ["hat", "cap"], "by": ["mia", None], "kind": ["clip", "image"], "emb": vectors.tolist()}
    table |= {"brand": ["x", None], "secs": [30, None], "tag": ["red", None]}
    pq.write_table(pa.table(table), shop.folder / "items.parquet")
    columns = {"post_id": "id", "creator_id": "by", "media_type": "kind", "content_embedding": "emb"}
    posts = {
        "file": "items.parquet",
        "columns": columns | {"duration_seconds": "secs", "topic_id": "tag"},
        "values": {"media_type": {"clip": "video"}},
        "codes": ["brand"],
    }
    shop.run(impressions=VIEWS, posts=posts)
    cap, hat = shop.query(
        "SELECT media_type, creator_id, duration_seconds, topic_id, content_codes, content_embedding "
        "FROM posts ORDER BY external_id"
    )
    assert cap[:5] == ("image", internal_id("creator_of_post_cap"), None, -1, [-1])
    assert hat[:4] == ("video", internal_id("mia"), 30.0, internal_id("red"))
    assert len(hat[5]) == 32
    assert np.linalg.norm(hat[5]) == pytest.approx(1, abs=1e-5)
    assert np.dot(hat[5], cap[5]) == pytest.approx(1, abs=1e-5), "parallel vectors stay parallel"
    assert shop.query("SELECT external_id FROM creators ORDER BY 1") == [("creator_of_post_cap",), ("mia",)]


def test_requests_and_their_context_come_from_the_impressions(shop):
    shop.file(
        "views.csv",
        "visitor,item,at,req,dev,cc",
        "ann,hat,2024-05-01T10:00:02Z,r1,iOS,fr",
        "ann,cap,2024-05-01T10:00:01Z,r1,iOS,fr",
        "bob,cap,2024-05-01T10:00:03Z,r1,web,de",
        "bob,hat,2024-05-01T10:00:04Z,,web,de",
    )
    columns = VIEWS["columns"] | {"request_id": "req", "device": "dev", "country": "cc"}
    report = shop.run(impressions=VIEWS | {"columns": columns})
    rows = shop.query("SELECT request_id, user_id, session_id, device, country, event_at FROM requests")
    r1 = internal_id("r1")
    assert rows == [(r1, internal_id("ann"), r1, "ios", "FR", datetime(2024, 5, 1, 10, 0, 1, tzinfo=UTC))]
    assert report.tables["impressions"] == 3
    assert shop.reasons() == [("impressions", 3, "request_id: belongs to another user")]


def test_follows_come_from_their_file_and_from_follow_engagements(shop):
    shop.file("items.csv", "id,by", "hat,mia", "cap,leo")
    shop.file("follows.csv", "who,whom,on", "ann,mia,2019-01-01", "ann,nobody,2019-01-01")
    shop.file("creators.csv", "name", "mia", "leo")
    shop.file("actions.csv", "visitor,item,at,action", "bob,cap,2024-05-02T12:00:00Z,follow")
    report = shop.run(
        impressions=VIEWS,
        engagements=ACTIONS,
        posts={"file": "items.csv", "columns": {"post_id": "id", "creator_id": "by"}},
        creators={"file": "creators.csv", "columns": {"creator_id": "name"}},
        follows={"file": "follows.csv", "columns": {"user_id": "who", "creator_id": "whom", "event_at": "on"}},
    )
    assert report.tables["follows"] == 2
    assert shop.reasons() == [("follows", 2, "creator_id: not in creators")]
    rows = shop.query("SELECT user_id, creator_id, event_at, known_at FROM follows ORDER BY event_at")
    assert rows[0][:2] == (internal_id("ann"), internal_id("mia"))
    assert rows[0][2:] == (datetime(2019, 1, 1, tzinfo=UTC), datetime(2024, 4, 30, tzinfo=UTC))
    assert rows[1][:2] == (internal_id("bob"), internal_id("leo"))


def test_a_dry_run_reports_the_same_and_writes_nothing(shop):
    good = "ann,hat,2024-05-01T10:00:00Z"
    shop.file("views.csv", "visitor,item,at", good, "ann,hat,x", "bob,hat,y", "c,d,z", "e,f,w")
    dry = shop.run(is_dry_run=True, impressions=VIEWS)
    assert not shop.settings.workspace.root.exists()
    ((reason, count, examples),) = dry.inputs[0].reasons()
    assert (reason, count, len(examples)) == ("event_at: not an instant (iso)", 4, 3)
    assert examples[0] == "views.csv row 2: user_id=ann, post_id=hat, event_at=x"
    wet = shop.run(impressions=VIEWS)
    assert (dry.tables, dry.notes) == (wet.tables, wet.notes)
    assert dry.inputs[0].refused == wet.inputs[0].refused


def test_an_import_with_no_good_impression_stops_and_keeps_the_previous_data(shop):
    before = shop.run(impressions=VIEWS).manifest
    shop.file("views.csv", "visitor,item,at", "ann,hat,never")
    with pytest.raises(InputError, match="no impression could be taken"):
        shop.run(impressions=VIEWS)
    assert shop.settings.workspace.manifest() == before
    assert shop.query("SELECT count(*) FROM impressions") == [(2,)]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, r"mapping\.yaml: impressions: Field required"),
        ({"impressions": VIEWS, "likes": VIEWS}, r"likes: Extra inputs are not permitted"),
        ({"impressions": VIEWS | {"cols": {}}}, r"impressions\.cols: Extra inputs are not permitted"),
        (
            {"impressions": {"file": "views.csv", "columns": {"user_id": "visitor"}}},
            r"columns\.post_id: is",
        ),
        (
            {"impressions": VIEWS | {"columns": VIEWS["columns"] | {"colour": "c"}}},
            r"impressions\.columns\.colour: no such column of ours",
        ),
        ({"impressions": VIEWS | {"labels": {"wave": "w"}}}, r"impressions\.labels\.wave: no such engagement"),
        (
            {"impressions": VIEWS, "engagements": ACTIONS | {"values": {"kind": {"heart": "love"}}}},
            r"engagements\.values\.kind: no engagement 'love'",
        ),
        ({"impressions": VIEWS, "time": {"format": "noon"}}, r"time\.format: String should match"),
        ({"impressions": VIEWS, "time": {"zone": "Mars/Base"}}, r"time\.zone: .*no time zone 'Mars/Base'"),
        (
            {"impressions": VIEWS | {"file": "../views.csv"}},
            r"impressions\.file: '.*' leaves the data folder",
        ),
    ],
)
def test_a_wrong_mapping_names_its_path(shop, mapping, message):
    with pytest.raises(ConfigError, match=message):
        shop.run(**mapping)


def test_a_mapping_that_is_no_yaml_or_no_file_is_named(shop):
    path = shop.folder / "broken.yaml"
    path.write_text("impressions: [unclosed")
    with pytest.raises(ConfigError, match=r"broken\.yaml: is not YAML"):
        import_own(path, shop.folder, shop.settings.workspace, NOW)
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such mapping file"):
        import_own(shop.folder / "absent.yaml", shop.folder, shop.settings.workspace, NOW)


def test_a_missing_file_or_column_is_named(shop):
    with pytest.raises(InputError, match=r"gone\.csv: no such file; the mapping's impressions\.file names it"):
        shop.run(impressions=VIEWS | {"file": "gone.csv"})
    with pytest.raises(InputError, match=r"views\.csv: column 'when' is missing; found visitor, item, at"):
        shop.run(impressions=VIEWS | {"columns": VIEWS["columns"] | {"event_at": "when"}})


def test_a_quoted_line_break_stays_one_row_and_an_unclosed_quote_is_quarantined(shop):
    shop.file(
        "views.csv", "visitor,item,at,note", 'ann,hat,2024-05-01T10:00:00Z,"two', 'lines"', 'bob,cap,2024-05-0,"cut'
    )
    report = shop.run(impressions=VIEWS)
    assert report.tables["impressions"] == 1
    assert len(shop.reasons()) == 1


def test_the_files_words_for_topics_are_kept_as_their_names(shop):
    shop.file("items.csv", "id,kind,seller", "hat,headwear,mia", "cap,headwear,mia", "mug,7,leo", "pan,,leo")
    shop.run(
        impressions=VIEWS,
        posts={"file": "items.csv", "columns": {"post_id": "id", "topic_id": "kind", "creator_id": "seller"}},
    )
    names = shop.settings.workspace.manifest().config["topic_names"]
    assert names == {str(internal_id("headwear")): "headwear"}
    assert shop.query(f"SELECT count(*) FROM posts WHERE topic_id = {internal_id('headwear')}") == [(2,)]
