"""`make leaks` on a small world: real features, real joins; clean sets pass, planted leaks are found."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from core.errors import InputError, LeakError, MissingStageError
from core.schema import HEADS, TABLES
from core.settings import Settings
from events.log import append
from events.synthetic.generate import generate
from feature_repo.build import build_features
from feature_repo.store import apply_definitions
from tests.synthetic_small import small_config
from training import leak_counterfactual
from training.__main__ import app
from training.leak_audit import audit_sets, built_sets
from training.leak_checks import AuditConfig
from training.leak_report import require_clean
from training.set_files import load_set
from training.sets import build_set, set_configs
from training.splits import SplitConfig
from validation.counterfactual import SCRATCH_PREFIX

CONFIG = AuditConfig(num_cuts=1, rows_per_cut=300)
CLICK = HEADS.index("click")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),  # from inside Feast, ibis and pandas
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


def quiet(*_: object) -> None:
    pass


def join_set(settings: Settings, name: str = "second_stage") -> None:
    split = SplitConfig(warmup_days=0.5, validation_days=0.25, calibration_days=0.5, test_days=0.5)
    config = set_configs(settings.workspace.manifest(), max_rows=6_000)[name]
    build_set(settings, replace(config, split=split), quiet)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A world of three days with features and two sets, never changed by a test."""
    settings = Settings(var_dir=tmp_path_factory.mktemp("var"), dataset="leaks", num_threads=1)
    generate(small_config(), settings.workspace)
    build_features(settings.workspace, settings)
    apply_definitions(settings.workspace)
    for name in ("second_stage", "retrieval"):
        join_set(settings, name)
    return settings


@pytest.fixture
def settings(built: Settings, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    shutil.copytree(built.workspace.root, tmp_path / "leaks")
    for name, value in (("VAR_DIR", tmp_path), ("DATASET", "leaks"), ("NUM_THREADS", 1)):
        monkeypatch.setenv(f"VITRINE_{name}", str(value))
    return Settings()


def checks_of(settings: Settings, config: AuditConfig = CONFIG, name: str = "second_stage"):
    (audit,) = audit_sets(settings, [name], config, quiet)
    return audit, {check.check: check for check in audit.checks}


def leftovers(settings: Settings) -> list[str]:
    return [path.name for path in settings.workspace.root.iterdir() if path.name.startswith(SCRATCH_PREFIX)]


def test_clean_sets_pass_and_the_report_says_what_was_looked_at(settings: Settings) -> None:
    result = CliRunner().invoke(app, ["leaks", "--cuts", "2"])
    assert result.exit_code == 0, result.output
    report = json.loads((settings.workspace.reports / "leaks.json").read_text())
    assert set(report["sets"]) == {"second_stage", "retrieval"} == set(built_sets(settings.workspace))
    for found in report["sets"].values():
        assert found["status"] == "passed"
        checks = {check["check"]: check for check in found["checks"]}
        assert checks["known time"]["num_values"] > 90 * checks["known time"]["num_rows"]
        assert checks["counterfactual"]["num_rows"] > 100
        assert checks["counterfactual"]["note"].startswith("2 cuts")
        assert "best 0." in checks["single feature"]["note"]
    assert leftovers(settings) == []


def test_a_value_known_only_after_its_use_is_found_with_its_lateness(settings: Settings) -> None:
    folder = settings.workspace.training_sets / "second_stage"
    rows = load_set(settings.workspace.training_sets, "second_stage").examples()
    table = pq.read_table(settings.workspace.features / "user_activity", columns=["user_id", "num_click_total"])
    last = table.group_by("user_id").aggregate([("num_click_total", "max")]).to_pydict()
    final = dict(zip(last["user_id"], last["num_click_total_max"], strict=True))
    column = np.load(folder / "columns" / "user_activity__num_click_total.npy", mmap_mode="r+")
    first = np.unique(rows.users()[1], return_index=True)[1]  # the column has a row per request
    column[:50] = [final[user] for user in rows.user_ids[first[:50]].tolist()]
    column.flush()
    num_changed = int((rows.users()[1] < 50).sum())
    audit, checks = checks_of(settings)
    (leak,) = checks["known time"].leaks
    assert leak.feature == "user_activity__num_click_total"
    assert 0 < leak.num_rows <= num_changed
    assert len(leak.examples) == 3
    assert "s later" in leak.examples[0]
    with pytest.raises(LeakError, match="training set second_stage, known time: user_activity__num_click_total"):
        require_clean([audit], settings.workspace.reports)


def test_a_feature_row_without_known_time_is_found(settings: Settings) -> None:
    file = next((settings.workspace.features / "post_activity").rglob("*.parquet"))
    table = pq.ParquetFile(file).read()
    known_at = table["known_at"]
    nulled = pc.if_else(pa.array(np.arange(table.num_rows) < 2), pa.scalar(None, known_at.type), known_at)
    pq.write_table(table.set_column(table.column_names.index("known_at"), "known_at", nulled), file)
    _, checks = checks_of(settings)
    assert [leak.feature for leak in checks["known time"].leaks] == ["view post_activity"]
    assert checks["known time"].leaks[0].num_rows == 2


def test_a_feature_that_gives_the_label_away_is_found_unless_trusted(settings: Settings) -> None:
    folder = settings.workspace.training_sets / "second_stage"
    clicked = np.load(folder / "labels.npy")[:, CLICK]
    path = folder / "columns" / "request__hour.npy"
    # A request's column cannot say which post was clicked: make it the posts' own.
    hours = np.load(path)[np.load(folder / "user_of.npy")]
    np.save(path, np.where(clicked > 0.5, 23, hours % 23).astype(hours.dtype))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["user_columns"].remove("request__hour")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    audit, checks = checks_of(settings)
    (leak,) = checks["single feature"].leaks
    assert leak.feature == "request__hour"
    assert "predict click alone" in str(leak)
    assert "the value 23 has" in leak.examples[0]
    with pytest.raises(LeakError, match="--trust"):
        require_clean([audit], settings.workspace.reports)
    _, checks = checks_of(settings, replace(CONFIG, trusted=("request__hour",)))
    assert not checks["single feature"].leaks
    assert "trusted: request__hour" in checks["single feature"].note


def backdate_clicks(settings: Settings) -> None:
    """A job that stamps clicks with the session's beginning: each click once more, two hours before it was served."""
    log = settings.workspace.log
    shown = pq.read_table(log / "impressions", columns=["event_id", "served_at"])
    served_at = dict(zip(shown["event_id"].to_pylist(), shown["served_at"].to_pylist(), strict=True))
    clicks = pq.read_table(log / "engagements", filters=[("kind", "=", "click")]).drop_columns(["day"]).to_pylist()
    for row in clicks:
        at = served_at[row["impression_id"]] - timedelta(hours=2)
        row |= {"event_id": f"{row['event_id']}-session", "event_at": at, "known_at": at}
    append(log, "engagements", pa.Table.from_pylist(clicks, schema=TABLES["engagements"].arrow), source="job")


def test_engagements_that_reach_the_features_of_their_own_impression_are_found(settings: Settings) -> None:
    backdate_clicks(settings)
    build_features(settings.workspace, settings)
    join_set(settings)
    audit, checks = checks_of(settings)
    assert not checks["known time"].leaks  # every known time is in order; only the log was wrong
    leaking = {leak.feature for leak in checks["counterfactual"].leaks}
    assert {"user_activity__num_click_24h", "user_history__history_post_ids"} <= leaking
    worst = checks["counterfactual"].leaks[0]
    assert len(worst.examples) == 3
    assert "rebuilt" in worst.examples[0]
    with pytest.raises(LeakError, match=r"training set second_stage, counterfactual: .*probed rows change when"):
        require_clean([audit], settings.workspace.reports)
    assert leftovers(settings) == []


def test_features_that_look_ahead_are_found_although_their_known_times_say_otherwise(settings: Settings) -> None:
    for file in (settings.workspace.features / "post_activity").rglob("*.parquet"):
        table = pq.ParquetFile(file).read()
        for name in ("event_at", "known_at"):
            earlier = pc.subtract(table[name], pa.scalar(timedelta(hours=3), pa.duration("us")))
            table = table.set_column(table.column_names.index(name), name, earlier)
        pq.write_table(table, file)
    join_set(settings)
    _, checks = checks_of(settings)
    assert not checks["known time"].leaks
    assert {leak.feature.split("__")[0] for leak in checks["counterfactual"].leaks} == {"post_activity"}


def test_an_interrupted_audit_leaves_nothing_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        assert leftovers(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(leak_counterfactual, "joined_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit_sets(settings, ["retrieval"], CONFIG, quiet)
    assert leftovers(settings) == []


def test_sets_of_other_data_and_no_sets_are_refused_with_the_command(settings: Settings) -> None:
    workspace = settings.workspace
    workspace.write_manifest(replace(workspace.manifest(), data_version="other"))
    with pytest.raises(InputError, match=r"made from data .*, the log is other; run `python -m training sets`"):
        audit_sets(settings, ["retrieval"], CONFIG, quiet)
    shutil.rmtree(workspace.training_sets)
    with pytest.raises(MissingStageError, match="training sets"):
        built_sets(workspace)
