"""The importer on the public log itself; skipped where it was not downloaded."""

from pathlib import Path

import pytest

from core.settings import Settings
from events.importers.kuairand import import_kuairand
from events.read import connect, register_log

DATA = Path(__file__).parents[3] / "shared" / "data" / "kuairand_pure"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"KuaiRand-Pure is not at {DATA}; the README says where to get it"
)


def test_the_published_counts_and_rates_come_out_of_the_log(tmp_path):
    settings = Settings(var_dir=tmp_path, dataset="kuairand", num_threads=1)
    report = import_kuairand(DATA, settings.workspace)
    assert {part.table: part.refused.num_rows for part in report.inputs} == {
        "logs": 0,
        "history": 0,
        "users": 0,
        "videos": 0,
    }
    assert report.tables["users"] == 27_285
    assert report.tables["posts"] == 7_583
    with connect(settings) as connection:
        register_log(connection, settings.workspace.log)
        counts = connection.sql(
            "SELECT count(*) FILTER (NOT is_time_imputed), count(*) FILTER (is_time_imputed), "
            "count(*) FILTER (NOT is_time_imputed AND event_id NOT LIKE '%:0'), count(DISTINCT event_id) "
            "FROM impressions"
        ).fetchall()
        kinds = dict(
            connection.sql("SELECT kind, count(*) FROM engagements WHERE NOT is_time_imputed GROUP BY 1").fetchall()
        )
        orphans = connection.sql(
            "SELECT count(*) FROM engagements e ANTI JOIN impressions i ON e.impression_id = i.event_id"
        ).fetchall()
        strangers = connection.sql(
            "SELECT count(*) FROM impressions ANTI JOIN posts USING (post_id, creator_id)"
        ).fetchall()
        early = connection.sql(
            "SELECT count(*) FROM impressions i JOIN posts p USING (post_id) WHERE i.event_at < p.created_at"
        ).fetchall()
    dated, imputed, repeats, ids = counts[0]
    assert (dated, imputed, ids) == (171_671, 817_187, 171_671 + 817_187)
    assert repeats == 4_739
    assert (orphans, strangers, early) == ([(0,)], [(0,)], [(0,)])
    rates = {kind: round(kinds[kind] / dated, 4) for kind in ("click", "long_view", "like", "follow", "see_less")}
    assert rates == {"click": 0.4433, "long_view": 0.3119, "like": 0.0175, "follow": 0.0013, "see_less": 0.0008}
