from datetime import UTC, datetime
from pathlib import Path

from validation.docs_site import forget_old_runs, results_folder
from validation.report import GateReport, SuiteReport, gates_path, last_results, record

AT = datetime(2024, 3, 1, tzinfo=UTC)


def report(gate, refusal=None):
    suite = SuiteReport("users", 11, 100, 2, {"user_id is null": 2}, refusal is None)
    return GateReport(gate, AT, AT, (suite,), Path("docs/index.html"), refusal)


def test_only_the_newest_runs_of_each_suite_stay_with_their_pages(tmp_path):
    for suite in ("users", "posts"):
        for run in ("20240101T000000", "20240102T000000", "20240103T000000"):
            for folder in (results_folder(tmp_path), tmp_path / "validations"):
                (folder / suite / "events" / run).mkdir(parents=True)
                (folder / suite / "events" / run / "result").touch()
    assert forget_old_runs(tmp_path, kept=2) == 2
    for folder in (results_folder(tmp_path), tmp_path / "validations"):
        left = {path.name for path in (folder / "users" / "events").iterdir()}
        assert left == {"20240102T000000", "20240103T000000"}


def test_the_last_word_of_each_gate_is_kept(tmp_path):
    record(tmp_path, report("events"))
    record(tmp_path, report("features", "post_activity refused"))
    record(tmp_path, report("events", "impressions refused"))
    last = last_results(tmp_path)
    assert {gate: entry["status"] for gate, entry in last.items()} == {"events": "refused", "features": "refused"}
    assert last["events"]["num_quarantined"] == 2
    assert last["events"]["suites"][0]["reasons"] == {"user_id is null": 2}


def test_results_that_cannot_be_read_count_as_none(tmp_path):
    assert last_results(tmp_path) == {}
    gates_path(tmp_path).write_text("{broken")
    assert last_results(tmp_path) == {}
    record(tmp_path, report("events"))
    assert list(last_results(tmp_path)) == ["events"]
