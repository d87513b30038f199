"""Packed rows: what is packed is unpacked again, and nothing of another layout is ever misread."""

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from feature_repo.stores.packed.cells import cells_from_arrow, cells_from_values
from feature_repo.stores.packed.layout import FOREVER, Layout, PackedField
from feature_repo.stores.packed.pack import pack_rows
from feature_repo.stores.packed.unpack import Unpacked
from feature_repo.stores.packed.wide import WideLayout, WideRows, lone_layout
from feature_repo.stores.packed.wire import time_column, value_columns, values_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's imports

FIELDS = [
    PackedField("f", "FLOAT"),
    PackedField("name", "STRING"),
    PackedField("i", "INT64"),
    PackedField("fixed", "FLOAT_LIST", 3),
    PackedField("free", "INT64_LIST"),
    PackedField("flag", "BOOL"),
    PackedField("small", "INT32"),
    PackedField("d", "DOUBLE"),
    PackedField("words", "STRING_LIST"),
]
COLUMNS = {
    "f": pa.array([1.5, None, float("nan")], pa.float32()),
    "name": pa.array(["", "né", None]),
    "i": pa.array([2**62 + 1, None, -1], pa.int64()),
    "fixed": pa.array([[1, 2, 3], [4], None], pa.list_(pa.float32())),
    "free": pa.array([[], None, [5, -6, 2**40]], pa.list_(pa.int64())),
    "flag": pa.array([True, False, None]),
    "small": pa.array([-(2**31), 7, None], pa.int32()),
    "d": pa.array([0.1, None, 1e300]),
    "words": pa.array([["a", ""], [], None]),
}


def packed(layout: Layout, columns=COLUMNS, event=10, known=20) -> list[bytes]:
    n = len(next(iter(columns.values())))
    cells = [cells_from_arrow(f, columns[f.name]) for f in layout.fields]
    return pack_rows(layout, cells, np.full(n, event, np.int64), np.full(n, known, np.int64))


def unpack_wide(layout: Layout, raw: list[bytes | None]) -> WideRows:
    return lone_layout(layout, FOREVER).unpack(raw, 0)


def unpack_rows(layout: Layout, raw: list[bytes | None]) -> Unpacked:
    return unpack_wide(layout, raw).view(0)


def test_every_form_comes_back_as_it_went_in():
    layout = Layout(FIELDS)
    rows = unpack_rows(layout, packed(layout))
    assert rows.found.all()
    assert rows.event_us.tolist() == [10, 10, 10]
    assert rows.nulls[:, layout.bits["f"]].tolist() == [False, True, True]
    np.testing.assert_array_equal(rows.scalars("f"), np.array([1.5, np.nan, np.nan], np.float32))
    assert rows.scalars("i").tolist() == [2**62 + 1, 0, -1]
    assert rows.scalars("small").tolist() == [-(2**31), 7, 0]
    assert rows.strings("name") == [b"", "né".encode(), b""]
    assert rows.padded("fixed", 3, 0).tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]
    assert rows.padded("free", 2, -1).tolist() == [[-1, -1], [-1, -1], [5, -6]]
    assert [list(v.string_list_val.val) for v in values_of(rows, ["words"])[0]] == [["a", ""], [], []]
    assert values_of(rows, ["words"])[0][2].WhichOneof("val") is None
    assert values_of(rows, ["words"])[0][1].WhichOneof("val") == "string_list_val"


def test_arrow_and_values_pack_to_the_same_bytes():
    layout = Layout(FIELDS)
    cells = []
    for field in layout.fields:
        column = COLUMNS[field.name]
        if field.name == "i":  # by way of numpy Feast would round it
            values = [Value() if v is None else Value(int64_val=v) for v in column.to_pylist()]
        else:
            values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType[field.value_type])
        cells.append(cells_from_values(field, values))
    times = np.full(3, 10, np.int64), np.full(3, 20, np.int64)
    assert pack_rows(layout, cells, *times) == packed(layout)


def test_rows_of_another_layout_missing_and_cut_rows_are_not_found_and_counted():
    layout, other = Layout(FIELDS), Layout(FIELDS[:-1])
    good = packed(layout)
    wide = unpack_wide(layout, [good[0], packed(other)[0], None, good[1][:-1], b"", good[2]])
    rows = wide.view(0)
    assert rows.found.tolist() == [True, False, False, False, False, True]
    assert wide.num_foreign == 3
    assert rows.nulls[1:5].all()
    fixed = Layout([PackedField("f", "FLOAT"), PackedField("g", "FLOAT")])
    same_size = Layout([PackedField("f", "FLOAT"), PackedField("h", "FLOAT")])
    columns = {"f": COLUMNS["f"], "g": COLUMNS["f"], "h": COLUMNS["f"]}
    rows = unpack_rows(fixed, [*packed(fixed, columns), *packed(same_size, columns)])
    assert rows.found.tolist() == [True] * 3 + [False] * 3
    assert np.isnan(rows.scalars("g")[3:]).all()
    assert len(unpack_rows(fixed, [])) == 0
    assert len(unpack_rows(layout, [])) == 0


@given(st.lists(st.lists(st.sampled_from(["there", "missing", "foreign", "cut", "old"]), min_size=3, max_size=3)))
def test_rows_side_by_side_read_as_they_do_alone(states):
    layouts = [
        Layout([PackedField("a", "FLOAT"), PackedField("n", "INT64")]),
        Layout([PackedField("b", "DOUBLE"), PackedField("list", "FLOAT_LIST", 3)]),
        Layout([PackedField(f"c{i}", "BOOL") for i in range(11)]),
    ]
    ttls = [5, FOREVER, 5]

    arrow = {"FLOAT": pa.float32(), "INT64": pa.int64(), "DOUBLE": pa.float64(), "BOOL": pa.bool_()}
    arrow["FLOAT_LIST"] = pa.list_(pa.float32())

    def row(layout: Layout, number: int, state: str) -> bytes | None:
        columns = {
            f.name: pa.array([[number] if f.length else number]).cast(arrow[f.value_type]) for f in layout.fields
        }
        good = packed(layout, columns, event=94 if state == "old" else 95)[0]
        return {"missing": None, "foreign": b"another." + good[8:], "cut": good[:-1]}.get(state, good)

    raw = [row(layouts[v], n, state) for n, of_entity in enumerate(states) for v, state in enumerate(of_entity)]
    wide = WideLayout(layouts, ttls).unpack(raw, now_us=100)
    lone = [lone_layout(layouts[v], ttls[v]).unpack(raw[v::3], 100) for v in range(3)]
    num_foreign = sum(state in ("foreign", "cut") for of_entity in states for state in of_entity)
    assert wide.num_foreign == sum(alone.num_foreign for alone in lone) == num_foreign
    for v, (ttl, alone) in enumerate(zip(ttls, lone, strict=True)):
        rows, column = wide.view(v), [of_entity[v] for of_entity in states]
        assert rows.found.tolist() == [state == "there" or (state == "old" and ttl == FOREVER) for state in column]
        assert rows.records.tobytes() == alone.view(0).records.tobytes()
        assert rows.nulls[~rows.found].all()
        assert not rows.nulls[rows.found].any()
        if wide.expired is not None:
            assert wide.expired[:, v].tolist() == [state == "old" and ttl != FOREVER for state in column]
            assert (rows.event_us[wide.expired[:, v]] == 94).all()
    backwards = np.arange(len(states))[::-1].copy()
    assert wide.take(backwards).view(1).records.tobytes() == wide.view(1).records[::-1].tobytes()


def test_texts_that_are_all_null_or_empty_are_read():
    layout = Layout([PackedField("name", "STRING")])
    assert unpack_rows(layout, packed(layout, {"name": pa.array([None, ""])})).strings("name") == [b"", b""]


def test_a_layout_with_a_variable_part_stands_alone():
    with pytest.raises(ValueError, match="not the only one"):
        WideLayout([Layout(FIELDS), Layout(FIELDS[:1])], [FOREVER, FOREVER])


def test_the_hash_sees_names_types_and_lengths_and_the_order():
    base = [PackedField("a", "FLOAT"), PackedField("b", "FLOAT_LIST", 4)]
    others = [
        [PackedField("x", "FLOAT"), base[1]],
        [PackedField("a", "DOUBLE"), base[1]],
        [base[0], PackedField("b", "FLOAT_LIST", 5)],
        base[::-1],
    ]
    assert Layout(base).hash == Layout(list(base)).hash
    assert len({Layout(f).hash for f in [base, *others]}) == 5
    assert Layout(base).size % 8 == 0


def test_a_list_longer_than_declared_is_refused_with_its_name():
    layout = Layout([PackedField("fixed", "FLOAT_LIST", 2)])
    with pytest.raises(InputError, match=r"fixed has a list of 3 items in row 0.*packed_length"):
        packed(layout, {"fixed": COLUMNS["fixed"]})


def test_a_value_of_another_type_is_refused_with_its_name():
    with pytest.raises(InputError, match="declared FLOAT"):
        cells_from_values(FIELDS[0], [Value(string_val="x")])
    with pytest.raises(InputError, match="arrives as Arrow string"):
        cells_from_arrow(FIELDS[2], pa.array(["x"]))


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=20))
def test_whole_numbers_are_written_as_protobuf_writes_them(numbers):
    layout = Layout([PackedField("i", "INT64")])
    rows = unpack_rows(layout, packed(layout, {"i": pa.array(numbers, pa.int64())}))
    wanted = RepeatedValue(val=[Value() if n is None else Value(int64_val=n) for n in numbers])
    assert value_columns(rows, ["i"])[0] == wanted.SerializeToString()


@given(st.lists(st.tuples(st.integers(-(10**15), 4 * 10**15), st.booleans()), max_size=10))
def test_instants_are_written_as_protobuf_reads_them(cases):
    event_us = np.array([c[0] for c in cases], dtype=np.int64)
    found = np.array([c[1] for c in cases], dtype=bool)
    vector = GetOnlineFeaturesResponse.FeatureVector.FromString(time_column(event_us, found))
    wanted = [divmod(micros, 10**6) if is_found else (0, 0) for micros, is_found in cases]
    assert [(t.seconds, t.nanos) for t in vector.event_timestamps] == [(s, r * 1000) for s, r in wanted]
