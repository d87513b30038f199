"""The parts of a skew audit: equality of values, causes of differences, counts and the verdict."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.workspace import Workspace
from feature_repo.columns import null_columns
from operations import skew_causes
from operations.skew_causes import Attribution, Difference, Reading
from operations.skew_offline import micros_of
from operations.skew_outcome import Cause, Example, FeatureSkew, SkewReport
from operations.skew_run import SkewConfig, is_accepted, skew_table, summary, verdict
from operations.skew_values import is_same, shown
from serving.funnel.input_bounds import InputBounds

F = np.float32


@pytest.mark.parametrize(
    ("served", "offline", "same"),
    [
        (F(1.5), F(1.5), True),
        (F("nan"), F("nan"), True),
        (F("nan"), F(0), False),
        (F(0), F("nan"), False),
        (F("inf"), F("inf"), True),
        (F("inf"), F("-inf"), False),
        (F("inf"), F(3e38), False),
        (F(0.1), np.nextafter(F(0.1), F(1)), True),  # one unit in the last place
        (F(1000), F(1000.01), False),
        (F(1e-3), F(1.01e-3), False),
        (F(0), F(5e-8), True),
        (F(0), F(1e-5), False),
        (F(0.0), F(-0.0), True),
    ],
)
def test_floats_are_the_same_up_to_rounding(served, offline, same):
    assert is_same(np.array([served]), np.array([offline])).tolist() == [same]
    assert is_same(np.array([offline]), np.array([served])).tolist() == [same]


def test_a_count_that_is_off_by_one_is_a_difference():
    for count in (1, 20, 4_000, 900_000):
        assert not is_same(np.array([count], dtype=F), np.array([count + 1], dtype=F))[0]


def test_integers_and_strings_must_be_equal():
    assert is_same(np.array([-1, 2**60]), np.array([-1, 2**60 + 1])).tolist() == [True, False]
    words = np.array(["de", "", "DE"], dtype=object)
    assert is_same(words, np.array(["de", "de", "de"], dtype=object)).tolist() == [True, False, False]


def test_a_list_is_one_value_and_every_entry_counts():
    left = np.array([[1, 2, -1], [1, 2, -1]])
    assert is_same(left, np.array([[1, 2, -1], [2, 1, -1]])).tolist() == [True, False]
    vectors = np.array([[0.5, np.nan], [0.5, 0.25]], dtype=F)
    assert is_same(vectors, np.array([[0.5, np.nan], [0.5, 0.26]], dtype=F)).tolist() == [True, False]


def test_no_rows_and_other_shapes():
    assert is_same(np.empty((0, 3)), np.empty((0, 3))).tolist() == []
    with pytest.raises(ValueError, match="expected equal shapes"):
        is_same(np.zeros((2, 3)), np.zeros((2, 4)))


def test_values_are_shown_briefly():
    assert shown(F("nan"), F(1)) == "null"
    assert shown(F(0.25), F(1)) == "0.25"
    assert shown("", "de") == "''"
    assert shown(np.array([1, 2, 3]), np.array([1, 2, 4])) == "[2] 3"


NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
VIEW, NAME = "post_activity", "post_activity__num_impressions_1h"


def micros(minutes):
    return micros_of(NOON + timedelta(minutes=minutes))


@pytest.fixture
def history(monkeypatch):
    """The feature counts minutes since noon: its value tells the instant as of which it was read."""

    def stored(workspace, view, names, ids, instants):
        columns = null_columns(names, len(ids))
        columns[NAME] = ((instants - micros(0)) / 60e6).astype(F)
        return columns

    monkeypatch.setattr(skew_causes, "stored_columns", stored)


def cause_of(served, *, read=None, max_age=5, materialized=0, ends=(0,), served_at=10, bounds=None):
    attribution = Attribution(
        Workspace("nowhere"),
        {VIEW: [NOON + timedelta(minutes=e) for e in ends]},
        InputBounds(bounds or {}, lambda feature, values: None),
    )
    reading = Reading(
        7, micros(served_at), None if read is None else micros(read), max_age * 60_000_000,
        None if materialized is None else micros(materialized),
    )  # fmt: skip
    values = np.array([served], dtype=F)
    difference = Difference(NAME, np.array([0]), values, np.array([served_at], dtype=F))
    ((cause,),) = attribution.causes(VIEW, [reading], [difference])
    return cause


def test_a_value_as_of_the_last_materialisation_waits_for_the_next(history):
    assert cause_of(0, materialized=0) == Cause.NOT_MATERIALIZED
    assert cause_of(3, materialized=3, ends=(0, 3)) == Cause.NOT_MATERIALIZED
    assert cause_of(4, materialized=3, ends=(0, 3)) == Cause.UNEXPLAINED
    assert cause_of(0, materialized=3, ends=(0, 3)) == Cause.UNEXPLAINED


def test_a_materialisation_that_the_log_had_not_heard_of_counts_too(history):
    assert cause_of(8, materialized=3, ends=(0, 3, 8)) == Cause.NOT_MATERIALIZED
    assert cause_of(12, materialized=3, ends=(0, 3, 12)) == Cause.UNEXPLAINED  # it came after the request


def test_nothing_is_what_was_never_materialised(history):
    assert cause_of(np.nan, materialized=None, ends=()) == Cause.NOT_MATERIALIZED
    assert cause_of(np.nan, materialized=3) == Cause.UNEXPLAINED
    assert cause_of(1, materialized=None, ends=()) == Cause.UNEXPLAINED


def test_a_value_as_of_the_caches_fill_is_cached_within_its_age_only(history):
    given = {"materialized": 9, "ends": (2, 4, 9)}
    assert cause_of(4, read=6, **given) == Cause.CACHED
    assert cause_of(2, read=6, **given) == Cause.CACHED  # the one at 4 was perhaps still being written
    assert cause_of(4, read=6, max_age=3, **given) == Cause.UNEXPLAINED
    assert cause_of(4, read=None, **given) == Cause.UNEXPLAINED
    assert cause_of(7, read=6, **given) == Cause.UNEXPLAINED
    assert cause_of(np.nan, read=6, **given) == Cause.UNEXPLAINED
    assert cause_of(np.nan, read=6, materialized=9, ends=(9,)) == Cause.CACHED  # read before there was anything


def test_null_for_a_value_outside_its_bounds(history):
    bounds = {NAME: {"min": 0, "max": 5}}
    assert cause_of(np.nan, bounds=bounds) == Cause.OUT_OF_BOUNDS
    assert cause_of(np.nan, materialized=8, ends=(8,), bounds={NAME: {"min": 0, "max": 50}}) == Cause.UNEXPLAINED
    assert cause_of(6, bounds=bounds) == Cause.UNEXPLAINED
    # The value of the last materialisation lay outside, today's does not.
    assert cause_of(np.nan, materialized=8, ends=(8,), bounds={NAME: {"min": 9, "max": None}}) == Cause.NOT_MATERIALIZED


def test_a_feature_with_streamed_values_on_top_is_live(history, monkeypatch):
    monkeypatch.setattr(skew_causes, "LIVE_FEATURES", frozenset({NAME}))
    assert cause_of(99) == Cause.LIVE


def example(cause, served="1"):
    return Example("r1", 7, 3, 4, NOON.isoformat(), served, "2", cause)


def report(**causes):
    feature = FeatureSkew(NAME, num_values=1000)
    for name, number in causes.items():
        for _ in range(number):
            feature.add(Cause[name], example(Cause[name]))
    clean = FeatureSkew("user_profile__country", num_values=1000)
    return SkewReport("world", "logged", None, None, 10, 1000, (feature, clean), {})


def test_the_example_is_of_the_most_serious_cause():
    found = report(CACHED=2, UNEXPLAINED=1, NOT_MATERIALIZED=3)
    (worst,) = found.worst
    assert worst.example.cause == Cause.UNEXPLAINED
    assert worst.causes == Counter({Cause.NOT_MATERIALIZED: 3, Cause.CACHED: 2, Cause.UNEXPLAINED: 1})
    assert found.share == 6 / 2000
    assert found.to_json()["causes"]["cached"] == 2
    assert found.to_json()["features_without_difference"] == ["user_profile__country"]
    assert summary(found)["num_unexplained"] == 1
    assert skew_table(found).row_count == 1


@pytest.mark.parametrize(
    ("causes", "is_anchored", "accepted"),
    [
        ({}, False, True),
        ({"UNEXPLAINED": 1}, False, False),
        ({"CACHED": 20}, False, True),
        ({"CACHED": 21}, False, False),
        ({"NOT_MATERIALIZED": 900}, False, False),
        ({"NOT_MATERIALIZED": 900}, True, True),
        ({"NOT_MATERIALIZED": 900, "CACHED": 21}, True, False),
    ],
)
def test_any_unexplained_difference_and_too_many_others_are_refused(causes, is_anchored, accepted):
    config = SkewConfig(max_share=0.01)
    assert is_accepted(report(**causes), config, is_anchored) is accepted
    assert ("more than 1.00% differ" in verdict(report(**causes), config, is_anchored)) is (
        not accepted and "UNEXPLAINED" not in causes
    )


def test_nothing_compared_is_not_a_pass():
    nothing = SkewReport("world", "logged", None, None, 0, 0, (), {"requests served from another data version": 3})
    assert not is_accepted(nothing, SkewConfig(), False)
    assert "nothing was compared" in verdict(nothing, SkewConfig(), False)
    assert "3 requests served from another data version" in verdict(nothing, SkewConfig(), False)
