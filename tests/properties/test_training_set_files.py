"""What is written to a training set is what is read, whatever the chunks."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from training.set_files import ExampleSet, SetManifest, SetWriter, new_folder

texts = st.sampled_from(["", "en", "de", "ü", "a b"])
ints = st.one_of(st.integers(-1, 100), st.integers(2**31, 2**40))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_columns_survive_any_chunking(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    columns = {
        "v__text": np.array(data.draw(st.lists(texts, min_size=n, max_size=n)), dtype=object),
        "v__int": np.array(data.draw(st.lists(ints, min_size=n, max_size=n)), dtype=np.int64),
        "v__list": np.array(data.draw(st.lists(st.tuples(ints, ints), min_size=n, max_size=n)), dtype=np.int64),
        "v__float": np.array(
            data.draw(st.lists(st.floats(width=32, allow_infinity=False), min_size=n, max_size=n)), dtype=np.float32
        ),
    }
    part = np.sort(np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=np.int8))
    size = data.draw(st.integers(1, n))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        writer = SetWriter(folder, n)
        for start in range(0, n, size):
            writer.write(start, {name: values[start : start + size] for name, values in columns.items()})
        names, vocabularies = writer.columns(), writer.vocabularies()
        writer.flush()
        for name, values in {
            "labels": np.zeros((n, 9), dtype=np.float32),
            "user_ids": np.arange(n),
            "post_ids": np.arange(n),
            "request_ids": np.arange(n),
            "served_at": np.arange(n, dtype=np.float64),
            "weights": np.ones(n, dtype=np.float32),
            "split": part,
        }.items():
            np.save(folder / f"{name}.npy", values)
        manifest = SetManifest("s", "", "", "", "", n, {}, names, vocabularies, {})
        found = ExampleSet(folder, manifest)
        everything = found.examples()
        for name, values in columns.items():
            np.testing.assert_array_equal(everything.columns[name], values)
        for code, split in enumerate(("train", "validation", "calibration", "test")):
            assert found.examples(split).user_ids.tolist() == np.flatnonzero(part == code).tolist()


def test_chunks_with_other_columns_are_refused(tmp_path: Path) -> None:
    writer = SetWriter(tmp_path, 4)
    writer.write(0, {"a": np.zeros(2)})
    with pytest.raises(InputError, match=r"differs in columns \['a', 'b'\]"):
        writer.write(2, {"b": np.zeros(2)})


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "set"
    with new_folder(final) as folder:
        (folder / "x").write_text("old")
    with pytest.raises(IsADirectoryError), new_folder(final) as folder:
        folder.write_text("a folder takes no text")
    assert (final / "x").read_text() == "old"
    with new_folder(final) as folder:
        (folder / "x").write_text("new")
    assert (final / "x").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
