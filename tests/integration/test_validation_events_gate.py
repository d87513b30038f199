import json
import socket
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from core.clock import FrozenClock
from core.errors import GateError
from core.schema import TABLES
from tests.small_log import END_AT, FIRST_AT, log_rows, plant, quarantined_rows, small_settings, write_small_log
from validation.__main__ import app
from validation.gates import check_events

CLOCK = FrozenClock(END_AT)
LATER = END_AT + timedelta(days=400)

BAD_IMPRESSIONS = {
    "user_id is null": {"user_id": None},
    "user_id is not in users": {"user_id": 10**6},
    "post_id is not in posts": {"post_id": 10**6, "creator_id": 0},
    "creator_id is not the post's creator": {"creator_id": 77},
    "request_id is not in requests": {"request_id": 10**6},
    "position is out of range": {"position": -4},
    "propensity is out of range": {"propensity": 1.5},
    "event_at lies after the end of the data": {"event_at": LATER, "known_at": LATER},
    "known_at is before event_at": {"known_at": FIRST_AT - timedelta(hours=1)},
    "the post was seen before it was served": {"served_at": END_AT},
    "another row has the same event_id": {"event_id": "i0"},
}
BAD_ENGAGEMENTS = {
    "kind is unknown": {"kind": "wink"},
    "the user acted before the impression": {"event_at": FIRST_AT - timedelta(hours=1)},
    "impression_id is not in impressions": {"impression_id": "never"},
    "user_id or post_id is not the impression's": {"user_id": 0},
    "dwell_seconds is out of range": {"dwell_seconds": -1.0},
    "event_id is null": {"event_id": None},
}


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A log with one bad row of every kind, after its gate."""
    settings = small_settings(tmp_path_factory.mktemp("gated"))
    write_small_log(settings)
    before = {"impressions": log_rows(settings, "impressions"), "engagements": log_rows(settings, "engagements")}
    good = {"impressions": dict(before["impressions"][7]), "engagements": dict(before["engagements"][1])}
    for table, kinds in (("impressions", BAD_IMPRESSIONS), ("engagements", BAD_ENGAGEMENTS)):
        odd = 19 if good[table]["user_id"] != 19 else 18
        bad = [
            good[table]
            | {"event_id": f"bad{place}"}
            | ({"user_id": odd} if "user_id" in change and change["user_id"] == 0 else change)
            for place, change in enumerate(kinds.values())
        ]
        plant(settings, table, bad)
    given = {table: log_rows(settings, table) for table in before}
    reports = check_events(settings, CLOCK)
    return settings, given, {report.suite: report for report in reports}


@pytest.mark.parametrize("reason", BAD_IMPRESSIONS)
def test_a_bad_impression_is_quarantined_with_its_reason(gated, reason):
    rows = quarantined_rows(gated[0], "events_impressions")
    assert sum(reason in row["reason"].split("; ") for row in rows) == 1
    assert gated[2]["impressions"].reasons[reason] == 1


@pytest.mark.parametrize("reason", BAD_ENGAGEMENTS)
def test_a_bad_engagement_is_quarantined_with_its_reason(gated, reason):
    rows = quarantined_rows(gated[0], "events_engagements")
    assert sum(reason in row["reason"].split("; ") for row in rows) == 1


@pytest.mark.parametrize("table", ["impressions", "engagements"])
def test_rows_given_are_rows_kept_and_quarantined(gated, table):
    settings, given, reports = gated
    refused = quarantined_rows(settings, f"events_{table}")
    kept = log_rows(settings, table)
    plain = [{name: value for name, value in row.items() if name != "reason"} for row in refused]

    def content(rows):
        return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)

    assert content(kept + plain) == content(given[table])
    assert (
        reports[table].num_quarantined
        == len(refused)
        == len(BAD_IMPRESSIONS if table == "impressions" else BAD_ENGAGEMENTS)
    )


def test_the_first_row_of_a_repeated_key_stays(gated):
    assert [row["event_id"] for row in log_rows(gated[0], "impressions")].count("i0") == 1


def test_tables_without_bad_rows_are_left_alone(gated):
    reports = gated[2]
    assert all(reports[name].num_quarantined == 0 for name in ("users", "creators", "posts", "follows", "requests"))


def test_a_second_run_finds_nothing_more(gated):
    settings = gated[0]
    before = {table: len(log_rows(settings, table)) for table in TABLES}
    assert all(report.num_quarantined == 0 for report in check_events(settings, CLOCK))
    assert {table: len(log_rows(settings, table)) for table in TABLES} == before


def test_the_data_docs_name_every_suite_and_the_last_word_is_kept(gated):
    docs = gated[0].workspace.docs
    page = (docs / "index.html").read_text()
    assert all(report.suite in page for report in gated[2].values())
    entry = json.loads((docs / "gates.json").read_text())["events"]
    assert entry["status"] == "passed"
    assert entry["at"] == END_AT.isoformat()


@pytest.fixture
def settings(tmp_path):
    made = small_settings(tmp_path)
    write_small_log(made)
    return made


def test_a_clean_log_passes_offline_and_untouched(settings, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a gate must not open a connection")

    files = {file: file.read_bytes() for file in settings.workspace.log.rglob("*.parquet")}
    monkeypatch.setattr(socket.socket, "connect", refuse)
    reports = check_events(settings, CLOCK)
    assert all(report.is_passed and report.num_quarantined == 0 for report in reports)
    assert {file: file.read_bytes() for file in settings.workspace.log.rglob("*.parquet")} == files
    assert not settings.workspace.quarantine.exists()


def test_too_many_bad_rows_stop_the_stage_with_examples_and_change_nothing(settings):
    good = log_rows(settings, "impressions")[7]
    plant(settings, "impressions", [good | {"event_id": f"bad{place}", "position": -9} for place in range(40)])
    before = len(log_rows(settings, "impressions"))
    with pytest.raises(GateError) as refusal:
        check_events(settings, CLOCK)
    message = str(refusal.value)
    assert "expect_column_values_to_be_between on column position" in message
    assert "40 of 340 rows" in message
    assert message.count("[event_id bad") == 3
    assert "position = -9" in message
    assert len(log_rows(settings, "impressions")) == before
    assert not settings.workspace.quarantine.exists()
    entry = json.loads((settings.workspace.docs / "gates.json").read_text())["events"]
    assert entry["status"] == "refused"
    assert "position" in entry["refusal"]


def test_bad_rows_of_many_kinds_stop_the_stage_together(settings):
    good = log_rows(settings, "impressions")[7]
    changes = [{"position": -9}, {"propensity": 3.0}, {"creator_id": 99}]
    plant(settings, "impressions", [good | {"event_id": f"b{n}"} | changes[n % 3] for n in range(24)])
    with pytest.raises(GateError, match=r"24 of 324 rows break a row rule, at most 5%"):
        check_events(settings, CLOCK)


def test_a_missing_column_stops_the_stage_by_name(settings):
    file = next((settings.workspace.log / "impressions").glob("day=*/*.parquet"))
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["position"]), file)
    with pytest.raises(GateError, match=r"\[column impressions.position\].*missing in 1 of 6 files"):
        check_events(settings, CLOCK)


def test_an_empty_required_table_stops_the_stage(settings):
    for file in (settings.workspace.log / "engagements").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(GateError, match=r"engagements refused(?s:.*)too few rows; found 0"):
        check_events(settings, CLOCK)


def test_stale_data_stop_the_stage(settings):
    manifest = settings.workspace.manifest()
    fields = manifest.__dict__ | {"anchor_at": END_AT + timedelta(days=30)}
    settings.workspace.write_manifest(type(manifest)(**fields))
    with pytest.raises(GateError, match="the newest event_at is too old; found 2024-03-06"):
        check_events(settings, CLOCK)


def test_the_command_prints_the_verdict_and_the_docs(settings, monkeypatch):
    monkeypatch.setenv("VITRINE_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("VITRINE_DATASET", "shop")
    monkeypatch.setenv("VITRINE_NUM_THREADS", "1")
    result = CliRunner().invoke(app, ["events"])
    assert result.exit_code == 0
    assert "impressions" in result.output
    assert "passed" in result.output
    assert str(settings.workspace.docs / "index.html") in result.output


def test_the_command_fails_with_the_refusal(settings, monkeypatch):
    monkeypatch.setenv("VITRINE_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("VITRINE_DATASET", "shop")
    monkeypatch.setenv("VITRINE_NUM_THREADS", "1")
    good = log_rows(settings, "users")[0]
    plant(settings, "users", [good | {"user_id": -5 - n} for n in range(10)])
    result = CliRunner().invoke(app, ["events"])
    assert result.exit_code == 1
    assert "user_id is negative in 10 of 30 rows" in result.output


def test_a_day_that_lost_its_events_stops_the_stage(settings):
    for table in ("impressions", "engagements"):
        for file in (settings.workspace.log / table / "day=2024-03-03").glob("*.parquet"):
            file.unlink()
    with pytest.raises(GateError, match=r"column impressions.volume.*mostly 0.8.*\[day 2024-03-03\]"):
        check_events(settings, CLOCK)


def test_an_implausible_daily_rate_stops_the_stage(settings):
    clicks = log_rows(settings, "engagements")
    reports = [row | {"event_id": f"r{row['event_id']}", "kind": "report"} for row in clicks]
    plant(settings, "engagements", reports)
    with pytest.raises(GateError, match=r"column engagements.rate_report.*a day has too many report per impression"):
        check_events(settings, CLOCK)
