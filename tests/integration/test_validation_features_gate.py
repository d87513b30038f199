import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.clock import FrozenClock
from core.errors import GateError, LeakError, MissingStageError
from core.schema import HEADS
from feature_repo.build import build_features
from feature_repo.columns import columns_from_arrow
from tests.small_log import END_AT, FIRST_AT, quarantined_rows, small_settings, write_small_log
from validation.gates import check_features, check_training_set, training_set_names
from validation.training_rows import TrainingRows

CLOCK = FrozenClock(END_AT)
SERVED_AT = END_AT.timestamp() - 3_600.0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A log with its feature tables, never changed by a test."""
    settings = small_settings(tmp_path_factory.mktemp("built"))
    write_small_log(settings)
    build_features(settings.workspace, settings)
    return settings


@pytest.fixture
def settings(built, tmp_path):
    shutil.copytree(built.workspace.root, tmp_path / "shop")
    return small_settings(tmp_path)


def first_file(settings, view):
    files = sorted((settings.workspace.features / view).glob("day=*/*.parquet"))
    return max(files, key=lambda file: pq.read_metadata(file).num_rows)


def view_rows(settings, view):
    files = sorted((settings.workspace.features / view).glob("day=*/*.parquet"))
    return sum(pq.read_metadata(file).num_rows for file in files)


def change(file, column, values):
    """Puts `values` (place to value) into a column of the file."""
    table = pq.ParquetFile(file).read()
    cells = table[column].to_pylist()
    for place, value in values.items():
        cells[place] = value
    changed = pa.array(cells, table[column].type)
    pq.write_table(table.set_column(table.column_names.index(column), column, changed), file)


def test_feature_tables_of_a_clean_log_pass(settings):
    reports = check_features(settings, CLOCK)
    assert all(report.is_passed and report.num_quarantined == 0 for report in reports)
    assert {"user_activity", "post_profile", "creator_profile"} <= {report.suite for report in reports}
    assert "user_activity" in (settings.workspace.docs / "index.html").read_text()


def test_bad_feature_rows_are_quarantined_with_their_reasons(settings):
    file = first_file(settings, "post_activity")
    before = view_rows(settings, "post_activity")
    change(file, "rate_click_24h", {0: 1.5})
    change(file, "post_id", {1: 10**6})
    change(file, "num_like_total", {2: -1.0})
    change(file, "known_at", {3: FIRST_AT})
    change(file, "num_click_1h", {4: 1e6})
    check_features(settings, CLOCK)
    refused = quarantined_rows(settings, "features_post_activity")
    reasons = [row["reason"] for row in refused]
    assert len(refused) == 5
    assert "rate_click_24h is out of range" in reasons
    assert "post_id is not in the log's posts" in reasons
    assert any("num_like_total is out of range" in reason for reason in reasons)
    assert "known_at is before event_at" in reasons
    assert any("num_click counts less in 24h than in 1h" in reason for reason in reasons)
    assert view_rows(settings, "post_activity") == before - 5


def test_a_missing_feature_column_stops_the_stage(settings):
    file = first_file(settings, "user_history")
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["history_kinds"]), file)
    with pytest.raises(GateError, match=r"\[column user_history.history_kinds\].*missing in 1 of"):
        check_features(settings, CLOCK)


def test_an_empty_feature_stops_the_stage(settings):
    for file in (settings.workspace.features / "post_profile").glob("day=*/*.parquet"):
        table = pq.ParquetFile(file).read()
        change(file, "created_at", dict.fromkeys(range(table.num_rows)))
    with pytest.raises(GateError, match=r"column filled_created_at(?s:.*)created_at is often missing on a day"):
        check_features(settings, CLOCK)


def test_a_rate_that_went_missing_stops_the_stage(settings):
    for file in (settings.workspace.features / "creator_activity").rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        change(file, "rate_save_7d", dict.fromkeys(range(table.num_rows)))
    with pytest.raises(GateError, match=r"rate_save_7d is often missing on a day"):
        check_features(settings, CLOCK)


def test_a_view_older_than_its_part_of_the_log_stops_the_stage(settings):
    for day in (settings.workspace.features / "user_history").glob("day=*"):
        if day.name > "day=2024-03-02":
            shutil.rmtree(day)
    with pytest.raises(GateError, match=r"days of user_history refused(?s:.*)the newest newest_at is too old"):
        check_features(settings, CLOCK)


def test_days_without_rows_stop_the_stage(settings):
    for day in (settings.workspace.features / "post_activity").glob("day=*"):
        if "day=2024-03-02" <= day.name <= "day=2024-03-04":
            shutil.rmtree(day)
    with pytest.raises(GateError, match=r"days of post_activity refused(?s:.*)volume far from the median day's"):
        check_features(settings, CLOCK)


def test_features_that_were_never_built_name_the_command(tmp_path):
    settings = small_settings(tmp_path)
    write_small_log(settings)
    with pytest.raises(MissingStageError, match="python -m feature_repo build"):
        check_features(settings, CLOCK)


def training_rows(settings, num_rows=200) -> TrainingRows:
    """Rows served an hour before the end, features joined by a plain loop: the last post_profile row of each post."""
    files = sorted((settings.workspace.features / "post_profile").rglob("*.parquet"))
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    last = {row["post_id"]: row for row in sorted(table.to_pylist(), key=lambda row: row["event_at"])}
    rng = np.random.default_rng(3)
    posts = rng.choice(sorted(last), num_rows)
    names = ("creator_id", "topic_id", "duration_seconds", "integrity_score", "created_at")
    joined = pa.table({f"post_profile__{name}": [last[post][name] for post in posts] for name in names})
    labels = (rng.random((num_rows, len(HEADS))) < 0.2).astype(np.float32)
    served_at = np.full(num_rows, SERVED_AT)
    ids = np.zeros(num_rows, dtype=np.int64)
    columns = {name: values.copy() for name, values in columns_from_arrow(joined).items()}
    return TrainingRows(columns, labels, ids, posts, served_at, np.ones(num_rows, dtype=np.float32))


def save(settings, name, rows: TrainingRows):
    folder = settings.workspace.training_sets / name
    (folder / "columns").mkdir(parents=True)
    for column, values in rows.columns.items():
        np.save(folder / "columns" / f"{column}.npy", values)
    for part in ("labels", "user_ids", "post_ids", "served_at", "weights"):
        np.save(folder / f"{part}.npy", getattr(rows, part))
    (folder / "manifest.json").write_text(json.dumps({"rows": len(rows), "columns": sorted(rows.columns)}))


def test_a_point_in_time_training_set_passes_from_its_files(settings):
    save(settings, "tiny", training_rows(settings))
    assert training_set_names(settings.workspace) == ["tiny"]
    reports = check_training_set(settings, CLOCK, "tiny")
    assert [report.suite for report in reports] == ["training_set_tiny"]
    assert reports[0].is_passed
    assert json.loads((settings.workspace.docs / "gates.json").read_text())["training_set_tiny"]["status"] == "passed"


def test_a_training_set_with_a_value_of_another_time_is_a_leak(settings):
    rows = training_rows(settings)
    rows.columns["post_profile__integrity_score"][5] = 0.25
    with pytest.raises(LeakError, match="post_profile__integrity_score: 1 of 200 probed rows"):
        check_training_set(settings, CLOCK, "tiny", rows=rows)
    assert json.loads((settings.workspace.docs / "gates.json").read_text())["training_set_tiny"]["status"] == "refused"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.labels.__setitem__((3, 0), 2.0), "label_click is not 0 to 1 in 1 of 200 rows"),
        (lambda rows: rows.labels.__setitem__(slice(None), 0.0), "the mean of is_positive is not plausible; found 0"),
        (lambda rows: rows.served_at.__setitem__(9, END_AT.timestamp() + 60), "served_at lies outside the data in 1"),
        (lambda rows: rows.user_ids.__setitem__(0, -1), "user_id is out of range in 1 of 200 rows"),
    ],
)
def test_a_broken_training_set_is_refused(settings, spoil, message):
    rows = training_rows(settings)
    spoil(rows)
    with pytest.raises(GateError, match=message):
        check_training_set(settings, CLOCK, "tiny", rows=rows)


def test_a_training_set_with_a_short_file_is_refused(settings):
    rows = training_rows(settings)
    save(settings, "tiny", rows)
    np.save(settings.workspace.training_sets / "tiny" / "weights.npy", rows.weights[:-1])
    with pytest.raises(GateError, match=r"weights.npy has 199 rows, the manifest says 200"):
        check_training_set(settings, CLOCK, "tiny")


def drift_of(settings):
    return json.loads((settings.workspace.reports / "drift.json").read_text())


def test_an_accepted_build_is_what_the_next_one_is_compared_with(settings, monkeypatch):
    from typer.testing import CliRunner

    from validation.__main__ import app

    monkeypatch.setenv("VITRINE_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("VITRINE_DATASET", settings.dataset)
    first = CliRunner().invoke(app, ["features"])
    assert "the first accepted build, nothing to compare with" in first.output
    assert drift_of(settings)["features"] == []
    second = CliRunner().invoke(app, ["features"])
    assert second.exit_code == 0, second.output
    assert "Drift against the build up to 2024-03-07T00:00" in second.output
    found = drift_of(settings)
    assert found["accepted_until"] == END_AT.isoformat()
    assert len(found["features"]) > 200
    assert {feature["psi"] for feature in found["features"]} == {0.0}


def test_a_moved_feature_is_reported_drawn_and_linked_but_stops_nothing(settings):
    check_features(settings, CLOCK)
    for file in (settings.workspace.features / "post_activity").rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        change(file, "rate_like_total", dict.fromkeys(range(table.num_rows), 0.75))
    reports = check_features(settings, CLOCK)
    assert all(report.is_passed for report in reports)
    worst = drift_of(settings)["features"][0]
    assert worst["feature"] == "post_activity__rate_like_total"
    assert worst["psi"] > 0.25
    assert worst["num_before"] == worst["num_now"] > 20
    docs = settings.workspace.docs
    assert '<a href="drift.html">' in (docs / "index.html").read_text()
    assert "post_activity__rate_like_total" in (docs / "drift.html").read_text()
    assert (docs / "drift.png").read_bytes().startswith(b"\x89PNG")
    last = json.loads((docs / "gates.json").read_text())["features"]
    assert last["drift"]["num_features"] > 200


def test_a_refused_build_is_not_what_later_ones_are_compared_with(settings):
    check_features(settings, CLOCK)
    accepted = (settings.workspace.docs / "drift_accepted.json").read_text()
    for file in (settings.workspace.features / "post_profile").glob("day=*/*.parquet"):
        change(file, "created_at", dict.fromkeys(range(pq.read_metadata(file).num_rows)))
    with pytest.raises(GateError):
        check_features(settings, CLOCK)
    assert (settings.workspace.docs / "drift_accepted.json").read_text() == accepted
    assert "drift" not in json.loads((settings.workspace.docs / "gates.json").read_text())["features"]
