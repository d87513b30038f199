"""What every suite must hold to: its rules mean the same in SQL and in Great Expectations, on any rows."""

from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from core.schema import ENGAGEMENT_KINDS, TABLES
from feature_repo.catalog import FIELDS, VIEWS
from validation.bounds import compile_bounds
from validation.engine import Engine
from validation.log_subjects import log_sql
from validation.rules import Rule, holds, never_null, not_before, one_of, within
from validation.subjects import pandas_frame
from validation.suites.events import log_suites, log_types
from validation.suites.features import MAY_BE_NULL, cross_suite, features_by_day, view_suite, view_types
from validation.suspects import suspect_sql
from validation.tables import Table

END_AT = datetime(2024, 3, 1, tzinfo=UTC)
ROW_RULES = [
    never_null("number"),
    within("number", -2.0, 2.0),
    within("number", 0.0),
    within("number", None, 1.0),
    within("at", high=END_AT),
    one_of("text", ["a", "b'c"]),
    holds("flag", "flag is false"),
    not_before("at", "earlier", "at is before earlier"),
    not_before("number", "other", "number is less than other"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(tmp_path_factory.mktemp("docs"))


def frame_of(rows):
    instants = pa.timestamp("us", tz="UTC")
    types = {"number": pa.float32(), "other": pa.float64(), "at": instants, "earlier": instants, "text": pa.string()}
    schema = pa.schema([*types.items(), ("flag", pa.bool_())])
    return pa.Table.from_pylist(rows, schema=schema)


NAN, INF = float("nan"), float("inf")
numbers = st.sampled_from([None, -3.0, -2.0, 0.0, 1.0, 2.0, 2.5, NAN, INF, -INF])
instants = st.sampled_from([None, END_AT, END_AT + timedelta(microseconds=1), END_AT - timedelta(days=9)])
# Shrinking runs the engine thousands of times and finds little that the rows do not show.
BRIEF = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
row = st.fixed_dictionaries(
    {
        "number": numbers,
        "other": numbers,
        "at": instants,
        "earlier": instants,
        "text": st.sampled_from([None, "a", "b'c", "x"]),
        "flag": st.sampled_from([None, True, False]),
    }
)


@BRIEF
@given(st.lists(row, min_size=3, max_size=12))
def test_sql_suspects_every_row_that_great_expectations_refuses(engine, rows):
    table = frame_of(rows)
    found = engine.locate(ROW_RULES, pandas_frame(table))
    with duckdb.connect() as connection:
        connection.register("rows", table)
        for rule, refused in zip(ROW_RULES, found, strict=True):
            flags = connection.sql(f"SELECT {suspect_sql(rule)} AS is_suspect FROM rows").fetchall()
            suspects = {place for place, (flag,) in enumerate(flags) if flag}
            assert set(refused.tolist()) <= suspects, rule
            columns = [rule.kwargs[key] for key in ("column", "column_A", "column_B") if key in rule.kwargs]
            spared = suspects - set(refused.tolist())
            assert all(any(rows[place][name] != rows[place][name] for name in columns) for place in spared), rule


@BRIEF
@given(st.lists(row, min_size=3, max_size=12))
def test_great_expectations_refuses_what_a_person_would(engine, rows):
    def is_null(value):
        return value is None or value != value

    def is_bad(rule: Rule, row) -> bool:
        kwargs = rule.kwargs
        if "column_A" in kwargs:
            later, earlier = row[kwargs["column_A"]], row[kwargs["column_B"]]
            return not is_null(later) and not is_null(earlier) and later < earlier
        value = row[kwargs["column"]]
        if rule.expectation.endswith("not_be_null"):
            return is_null(value)
        if is_null(value):
            return False
        if "value_set" in kwargs:
            return value not in kwargs["value_set"]
        too_low = "min_value" in kwargs and value < kwargs["min_value"]
        return too_low or ("max_value" in kwargs and value > kwargs["max_value"])

    found = engine.locate(ROW_RULES, pandas_frame(frame_of(rows)))
    for rule, refused in zip(ROW_RULES, found, strict=True):
        assert refused.tolist() == [place for place, values in enumerate(rows) if is_bad(rule, values)], rule


@pytest.mark.parametrize("name", log_suites(END_AT))
def test_a_log_suite_judges_every_column_that_may_not_be_null(name):
    suite = log_suites(END_AT)[name]
    not_null = "expect_column_values_to_not_be_null"
    judged = {rule.kwargs["column"] for rule in suite.rules if rule.expectation == not_null}
    # Written by the platform and only shown; a null there harms nobody.
    spared = {"spec_version", "sources", "rank", "num_candidates"}
    required = {column.name for column in TABLES[name].columns if not column.is_nullable}
    assert required - judged <= spared


@pytest.mark.parametrize("name", log_suites(END_AT))
def test_a_log_suite_reads_columns_that_its_sql_makes(name, tmp_path):
    import pyarrow.parquet as pq

    from events.read import register_log

    folder = tmp_path / name / "day=2024-03-01"
    folder.mkdir(parents=True)
    pq.write_table(TABLES[name].arrow.empty_table(), folder / "none.parquet")
    suite = log_suites(END_AT)[name]
    with duckdb.connect() as connection:
        register_log(connection, tmp_path)
        rows = connection.sql(log_sql(Table.at(name, tmp_path / name), suite.columns(), False)).to_arrow_table()
    assert rows.column_names == [*suite.columns(), "file_index", "file_row_number"]


def test_every_view_is_bound_by_ranges_of_all_its_counts_rates_and_times():
    for view in VIEWS.values():
        ranged = {rule.kwargs.get("column") for rule in view_suite(view, END_AT).rules}
        owed = {f.name for f in view.fields if f.dtype in ("float", "int") and f.name.startswith(("num_", "rate_"))}
        assert owed <= ranged


def test_every_view_has_ranges_null_rates_volume_or_a_catalogue_and_freshness():
    for view in VIEWS.values():
        days = features_by_day(view, END_AT, END_AT)
        judged = set(days.columns())
        owed = {f"filled_{f.name}" for f in view.fields if f.name not in MAY_BE_NULL}
        assert owed | {"newest_at"} <= judged, view.name
        # Profiles change when somebody registers, publishes or follows, which no day owes.
        assert ("volume" in judged) != view.name.endswith("_profile"), view.name
        assert any("row_count" in rule.expectation for rule in days.rules), view.name


def test_declared_types_cover_every_column():
    assert all(set(log_types(name)) == set(table.arrow.names) for name, table in TABLES.items())
    assert all(tuple(view_types(view)) == view.columns for view in VIEWS.values())


def test_the_kinds_of_the_schema_are_the_kinds_of_the_suite():
    rules = [rule for rule in log_suites(END_AT)["engagements"].rules if rule.kwargs.get("column") == "kind"]
    assert any(rule.kwargs.get("value_set") == list(ENGAGEMENT_KINDS) for rule in rules)


def test_bounds_refuse_exactly_what_the_suites_refuse(engine):
    bounds = compile_bounds()
    for view in ("post_profile", "user_affinity", "creator_profile", "user_post_cross"):
        suite = view_suite(VIEWS[view], END_AT) if view in VIEWS else cross_suite()
        names = [name for name in FIELDS if name.startswith(f"{view}__") and FIELDS[name].dtype in ("float", "int")]
        for name in names:
            rules = [r for r in suite.of_level("row") if r.kwargs.get("column") == name.split("__")[1]]
            values = np.array([-1e9, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.01, 2.0, 1e9])
            refused = set()
            for rows in engine.locate(rules, pd.DataFrame({name.split("__")[1]: values})):
                refused |= set(rows.tolist())
            bound = bounds.get(name, {"min": None, "max": None})
            low = -np.inf if bound["min"] is None else bound["min"]
            high = np.inf if bound["max"] is None else bound["max"]
            assert refused == set(np.flatnonzero((values < low) | (values > high)).tolist()), name
