import csv
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.settings import Settings
from events.importers import kuairand_codes as codes
from events.importers.kuairand import import_kuairand
from events.read import connect, register_log

BASE = 1_650_900_000_000  # 2022-04-25 15:20 UTC
LOG = "log_standard_4_25_to_5_04_pure.csv"
HISTORY = "train_tail50_reconstructed.parquet"


@pytest.fixture
def settings(tmp_path):
    return Settings(var_dir=tmp_path / "var", dataset="kuairand", num_threads=1)


def write_csv(path, columns, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="0")
        writer.writeheader()
        writer.writerows(rows)


def write_log(folder, *rows, name=LOG):
    write_csv(folder / name, codes.LOG_COLUMNS, [{"user_id": 1, "video_id": 2, "time_ms": BASE} | row for row in rows])


def write_videos(folder, *rows):
    given = {"video_type": "NORMAL", "upload_dt": "2022-04-10", "upload_type": "Web", "tag": "39", "author_id": 70}
    write_csv(folder / "video_features_basic_pure.csv", codes.VIDEO_COLUMNS, [given | row for row in rows])


def write_users(folder, *rows):
    given = {"user_active_degree": "full_active", "follow_user_num_range": "(0,10]", "fans_user_num_range": "0"}
    write_csv(folder / "user_features_pure.csv", codes.USER_COLUMNS, [given | row for row in rows])


def write_history(folder, **columns):
    pq.write_table(pa.table(columns), folder / HISTORY)


def query(settings, sql):
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        return connection.sql(sql).fetchall()


def refused(settings):
    files = (settings.workspace.quarantine / "import").glob("*.parquet")
    return [(r["table"], r["row"], r["reason"]) for file in files for r in pq.ParquetFile(file).read().to_pylist()]


def test_each_signal_becomes_its_engagement_and_profile_entry_none(tmp_path, settings):
    write_log(tmp_path, dict.fromkeys(codes.LABELS.values(), 1) | {"play_time_ms": 2500, "tab": 4})
    import_kuairand(tmp_path, settings.workspace)
    rows = query(settings, "SELECT kind, dwell_seconds FROM engagements ORDER BY kind")
    assert rows == [
        ("click", 2.5),
        ("comment", None),
        ("follow", None),
        ("like", None),
        ("long_view", 2.5),
        ("see_less", None),
        ("share", None),
    ]
    assert query(settings, "SELECT surface, request_id, served_at, observed_kinds FROM impressions") == [
        ("tab_4", None, None, ["click", "like", "comment", "share", "follow", "long_view", "see_less"])
    ]


def test_time_ms_is_the_utc_instant_of_the_impression(tmp_path, settings):
    write_log(tmp_path, {"time_ms": 1650812741436})
    report = import_kuairand(tmp_path, settings.workspace)
    at = datetime(2022, 4, 24, 15, 5, 41, 436000, tzinfo=UTC)
    assert query(settings, "SELECT event_at, known_at FROM impressions") == [(at, at)]
    assert report.manifest.anchor_at == at


def test_repeated_rows_are_rows_of_their_own(tmp_path, settings):
    write_log(tmp_path, {}, {}, {"is_click": 1}, {"time_ms": BASE + 1})
    import_kuairand(tmp_path, settings.workspace)
    ids = [f"kr:1:2:{BASE}:0", f"kr:1:2:{BASE}:1", f"kr:1:2:{BASE}:2", f"kr:1:2:{BASE + 1}:0"]
    assert query(settings, "SELECT event_id FROM impressions ORDER BY 1") == [(i,) for i in ids]
    assert query(settings, "SELECT impression_id FROM engagements") == [(ids[2],)]


def test_a_missing_label_is_unobserved_and_not_a_no(tmp_path, settings):
    write_log(tmp_path, {"is_like": "", "is_click": 1})
    import_kuairand(tmp_path, settings.workspace)
    ((kinds,),) = query(settings, "SELECT observed_kinds FROM impressions")
    assert "like" not in kinds
    assert "click" in kinds


def test_history_is_imputed_in_order_before_the_log_and_knows_two_labels_only(tmp_path, settings):
    write_log(tmp_path, {})
    write_history(
        tmp_path, user_id=[1, 1, 1], pos=[5, 3, 4], video_id=[50, 30, 40], long_view=[1, 0, None], is_like=[0, 0, 1]
    )
    import_kuairand(tmp_path, settings.workspace)
    rows = query(
        settings, "SELECT post_id, observed_kinds, event_at FROM impressions WHERE is_time_imputed ORDER BY event_at"
    )
    assert [row[:2] for row in rows] == [(30, ["like", "long_view"]), (40, ["like"]), (50, ["like", "long_view"])]
    assert datetime(2022, 4, 9, tzinfo=UTC) < rows[0][2]
    assert rows[-1][2] < datetime(2022, 4, 24, 16, tzinfo=UTC)
    assert query(settings, "SELECT post_id, kind, is_time_imputed FROM engagements ORDER BY 1") == [
        (40, "like", True),
        (50, "long_view", True),
    ]


def test_history_is_left_out_where_the_dated_logs_cover_its_days(tmp_path, settings):
    write_log(tmp_path, {"time_ms": BASE - 10 * 86_400_000}, name="log_standard_4_08_to_4_21_pure.csv")
    write_history(tmp_path, user_id=[1], pos=[0], video_id=[2], long_view=[1], is_like=[0])
    report = import_kuairand(tmp_path, settings.workspace)
    assert report.tables["impressions"] == 1
    assert "history left out" in report.notes[0]


def test_video_features_become_posts(tmp_path, settings):
    video = {"video_id": 2, "video_duration": 1500.0, "tag": "20,43", "server_width": 720, "music_type": 9.0}
    write_log(tmp_path, {})
    write_videos(tmp_path, video, {"video_id": 3, "tag": "", "upload_type": "Brand new"})
    import_kuairand(tmp_path, settings.workspace)
    rows = query(
        settings,
        "SELECT post_id, creator_id, topic_id, duration_seconds, media_type, content_codes, created_at, "
        "content_embedding FROM posts ORDER BY 1",
    )
    created = datetime(2022, 4, 9, 16, tzinfo=UTC)  # midnight of the upload date in China
    assert rows == [
        (2, 70, 20, 1.5, "video", [0, 1, 9, 3, -1], created, None),
        (3, 70, -1, 0.0, "video", [0, -1, 0, -1, -1], created, None),
    ]
    assert query(settings, "SELECT creator_id FROM creators") == [(70,)]
    assert query(settings, "SELECT creator_id FROM impressions") == [(70,)]


def test_user_features_become_profile_codes_at_fixed_places(tmp_path, settings):
    write_log(tmp_path, {})
    user = {"user_id": 1, "is_live_streamer": -124, "is_video_author": 1, "onehot_feat3": "7.0", "onehot_feat4": ""}
    write_users(tmp_path, user | {"register_days": 10})
    import_kuairand(tmp_path, settings.workspace)
    ((profile, registered, known),) = query(settings, "SELECT profile_codes, event_at, known_at FROM users")
    assert len(profile) == codes.NUM_PROFILE_CODES
    assert profile[:2] == [0, 1]
    assert profile[5:7] == [-1, 1]
    assert profile[10:12] == [7, -1]
    assert (known - registered).days == 10


def test_users_and_videos_without_features_get_a_row_and_are_counted(tmp_path, settings):
    write_log(tmp_path, {}, {"user_id": 9, "video_id": 8})
    write_users(tmp_path, {"user_id": 1})
    write_videos(tmp_path, {"video_id": 2})
    report = import_kuairand(tmp_path, settings.workspace)
    assert report.notes == [
        "1 users have impressions but no row of features; taken with unknown features",
        "1 videos have impressions but no row of features; taken with unknown features",
    ]
    assert query(settings, "SELECT user_id, profile_codes[1] FROM users ORDER BY 1") == [(1, 0), (9, -1)]
    assert query(settings, "SELECT count(DISTINCT creator_id) FROM posts") == [(2,)]


def test_bad_rows_are_quarantined_with_file_row_and_reason_and_good_ones_taken(tmp_path, settings):
    write_log(
        tmp_path,
        {},
        {"user_id": ""},
        {"video_id": "x7"},
        {"time_ms": 1_750_000_000_000},
        {"is_click": 2},
        {"time_ms": "soon"},
        {"user_id": -4},
    )
    with (tmp_path / LOG).open("a") as file:
        file.write("1,2,16509")
    report = import_kuairand(tmp_path, settings.workspace)
    assert report.tables["impressions"] == 1
    assert sorted(refused(settings), key=lambda r: r[1]) == [
        ("logs", 2, "user_id: null"),
        ("logs", 3, "video_id: not a whole number"),
        ("logs", 4, "time_ms: in the future of the data's end"),
        ("logs", 5, "is_click: not 0, 1, true or false"),
        ("logs", 6, "time_ms: not an instant (unix_ms)"),
        ("logs", 7, "user_id: negative"),
        ("logs", 8, "line has not the header's 13 values"),
    ]
    (logs,) = report.inputs
    assert (logs.num_offered, logs.num_taken) == (8, 1)


def test_a_second_row_of_features_for_one_id_is_quarantined(tmp_path, settings):
    write_log(tmp_path, {})
    write_users(tmp_path, {"user_id": 1}, {"user_id": 1, "user_active_degree": "day_new"})
    write_videos(tmp_path, {"video_id": 2}, {"video_id": 2})
    import_kuairand(tmp_path, settings.workspace)
    assert sorted(refused(settings)) == [("users", 2, "user_id: duplicate id"), ("videos", 2, "video_id: duplicate id")]
    assert query(settings, "SELECT profile_codes[1] FROM users") == [(0,)]


def test_a_missing_folder_log_or_column_is_named(tmp_path, settings):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        import_kuairand(tmp_path / "nowhere", settings.workspace)
    with pytest.raises(InputError, match=r"holds none of log_standard_\*\.csv"):
        import_kuairand(tmp_path, settings.workspace)
    (tmp_path / LOG).write_text("user_id,video_id\n1,2\n")
    with pytest.raises(InputError, match=rf"{LOG}: column 'time_ms' is missing; found user_id, video_id"):
        import_kuairand(tmp_path, settings.workspace)
    (tmp_path / LOG).write_text("")
    with pytest.raises(InputError, match=rf"{LOG}: is empty"):
        import_kuairand(tmp_path, settings.workspace)
    (tmp_path / LOG).write_bytes(b"user_id\n\xff\xfe\n")
    with pytest.raises(InputError, match=rf"{LOG}: cannot be read"):
        import_kuairand(tmp_path, settings.workspace)
    (tmp_path / HISTORY).write_bytes(b"PAR1 cut short")
    (tmp_path / LOG).unlink()
    with pytest.raises(InputError, match=rf"{HISTORY}: cannot be read"):
        import_kuairand(tmp_path, settings.workspace)


def test_a_failed_import_leaves_the_previous_data_whole(tmp_path, settings, monkeypatch):
    write_log(tmp_path, {})
    first = import_kuairand(tmp_path, settings.workspace)
    write_log(tmp_path, {}, {"time_ms": BASE + 5})

    def fail(log_root, table, *args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("events.importers.dataset.append", fail)
        with pytest.raises(OSError, match="No space"):
            import_kuairand(tmp_path, settings.workspace)
    assert settings.workspace.manifest() == first.manifest
    assert query(settings, "SELECT count(*) FROM impressions") == [(1,)]
    assert import_kuairand(tmp_path, settings.workspace).tables["impressions"] == 2


def test_importing_the_same_files_again_gives_the_same_version_and_bytes(tmp_path, settings):
    write_log(tmp_path, {"is_click": 1}, {"user_id": 3})
    first = import_kuairand(tmp_path, settings.workspace).manifest
    before = {p.name: p.read_bytes() for p in settings.workspace.log.rglob("*.parquet")}
    assert import_kuairand(tmp_path, settings.workspace).manifest == first
    assert {p.name: p.read_bytes() for p in settings.workspace.log.rglob("*.parquet")} == before


def test_an_import_does_not_replace_a_workspace_of_another_kind(tmp_path, settings):
    write_log(tmp_path, {})
    manifest = import_kuairand(tmp_path, settings.workspace).manifest
    settings.workspace.write_manifest(manifest.__class__(**(vars(manifest) | {"kind": "world"})))
    with pytest.raises(InputError, match="holds world data"):
        import_kuairand(tmp_path, settings.workspace)
