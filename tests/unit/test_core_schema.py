import pyarrow as pa
import pytest

from core.schema import ENGAGEMENT_KINDS, HEADS, TABLES


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_every_table_says_grain_key_and_meaning_of_each_column(table):
    assert table.grain.endswith(".")
    names = [c.name for c in table.columns]
    assert set(table.key) <= set(names)
    assert len(set(names)) == len(names)
    assert all(c.meaning for c in table.columns)
    assert names[-2:] == ["event_at", "known_at"]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_instants_are_microsecond_utc_and_keys_are_never_null(table):
    for field in table.arrow:
        if pa.types.is_timestamp(field.type):
            assert field.type == pa.timestamp("us", tz="UTC")
        if field.name in table.key:
            assert not field.nullable


def test_every_head_is_something_a_user_can_do():
    assert set(HEADS) < set(ENGAGEMENT_KINDS)
