import json
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from validation.drift import (
    DriftReport,
    Profile,
    accept,
    accepted_path,
    compare,
    profile,
    psi,
    read_accepted,
)

AT = datetime(2026, 3, 2, tzinfo=UTC)
NUM_ROWS = 4_000


def numbers(values):
    return pa.chunked_array([pa.array(values, pa.float32(), from_pandas=True)])


def texts(values):
    return pa.chunked_array([pa.array(values, pa.string())])


def drift_of(before, now):
    accepted = profile(before)
    (found,) = compare({"v__x": accepted}, {"v__x": profile(now, accepted)})
    return found


def test_psi_by_hand():
    before, now = Profile((1.0,), (), (0.5, 0.5, 0.0), 10), Profile((1.0,), (), (0.25, 0.75, 0.0), 10)
    # (.25 - .5) ln(.25 / .5) + (.75 - .5) ln(.75 / .5) = .25 ln 2 + .25 ln 1.5
    assert psi(before, now) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5))
    assert psi(now, before) == pytest.approx(psi(before, now))


def test_deciles_and_nulls_are_the_bins():
    found = profile(numbers([*range(100), *[None] * 25]))
    assert found.edges == (9, 19, 29, 39, 49, 59, 69, 79, 89)
    assert found.shares == pytest.approx((*[0.08] * 10, 0.2))
    assert found.num_rows == 125


@pytest.mark.parametrize(
    "column",
    [
        numbers(np.random.default_rng(0).normal(size=NUM_ROWS)),
        numbers(np.random.default_rng(0).poisson(0.3, NUM_ROWS)),
        numbers([None] * NUM_ROWS),
        texts(["de", "pt", None, "en"] * 1_000),
    ],
)
def test_an_equal_build_has_no_drift_at_all(column):
    found = drift_of(column, column)
    assert found.psi == 0.0
    assert found.level == "stable"


def test_another_draw_of_the_same_values_moves_by_about_what_chance_gives():
    rng = np.random.default_rng(1)
    found = [drift_of(numbers(rng.normal(size=NUM_ROWS)), numbers(rng.normal(size=NUM_ROWS))) for _ in range(40)]
    # Eleven bins of which the null one stays empty.
    expected = 9 * 2 / NUM_ROWS
    assert np.mean([one.psi for one in found]) == pytest.approx(expected, rel=0.35)
    assert {one.level for one in found} == {"stable"}


def test_a_shifted_feature_is_found_and_its_neighbour_is_not():
    rng = np.random.default_rng(2)
    values, same = rng.normal(size=NUM_ROWS), rng.normal(size=NUM_ROWS)
    accepted = {"v__moved": profile(numbers(values)), "v__same": profile(numbers(same))}
    now = {
        "v__moved": profile(numbers(values + 1), accepted["v__moved"]),
        "v__same": profile(numbers(same), accepted["v__same"]),
    }
    found = compare(accepted, now)
    assert [(one.feature, one.level) for one in found] == [("v__moved", "drifted"), ("v__same", "stable")]
    assert found[0].psi > 0.5


def test_values_that_vanish_into_null_are_drift():
    values = np.random.default_rng(3).normal(size=NUM_ROWS)
    gone = np.where(np.arange(NUM_ROWS) % 4 == 0, np.nan, values)
    assert drift_of(numbers(values), numbers(gone)).level == "drifted"
    assert drift_of(numbers(values), numbers([None] * NUM_ROWS)).level == "drifted"


def test_a_language_that_was_not_there_counts_as_another_text():
    before = texts(["de", "pt"] * 1_000)
    assert drift_of(before, texts(["de", "ja"] * 1_000)).level == "drifted"
    assert profile(before).values == ("de", "pt")


def test_a_move_between_the_limits_is_watched():
    rng = np.random.default_rng(4)
    values = rng.normal(size=NUM_ROWS)
    found = drift_of(numbers(values), numbers(values + 0.4))
    assert 0.1 <= found.psi <= 0.25
    assert found.level == "watch"


def test_too_few_rows_say_nothing():
    rng = np.random.default_rng(5)
    assert drift_of(numbers(rng.normal(size=100)), numbers(rng.normal(size=NUM_ROWS))).level == "few rows"
    assert compare({"v__x": profile(numbers([]))}, {"v__x": profile(numbers([]))}) == []


def test_the_accepted_build_is_kept_and_a_damaged_one_counts_as_none(tmp_path):
    assert read_accepted(tmp_path) == (None, {})
    profiles = {"v__x": profile(numbers([1, 2, None])), "v__y": profile(texts(["a", None, "b"]))}
    accept(tmp_path, AT, profiles)
    assert read_accepted(tmp_path) == (AT, profiles)
    accepted_path(tmp_path).write_text('{"until": "x"}')
    assert read_accepted(tmp_path) == (None, {})


def test_the_report_is_plain_json_with_levels_and_sample_sizes():
    values = np.random.default_rng(6).normal(size=NUM_ROWS)
    report = DriftReport(AT, AT, (drift_of(numbers(values), numbers(values + 2)),))
    found = json.loads(json.dumps(report.to_json()))
    assert found["features"][0] == asdict(report.features[0]) | {"level": "drifted"}
    assert found["features"][0]["num_before"] == NUM_ROWS
    assert report.summary()["drifted"] == ["v__x"]
