import hashlib

import pytest

from core.files import content_hash, file_hash, write_atomically


def test_a_failed_write_leaves_the_old_content_and_no_leftovers(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_missing_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b", b"\x00\x01")
    assert (tmp_path / "a" / "b").read_bytes() == b"\x00\x01"


def test_content_hash_knows_where_a_part_ends():
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"])


def test_file_hash_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"vitrine")
    assert file_hash(tmp_path / "x") == hashlib.sha256(b"vitrine").hexdigest()
