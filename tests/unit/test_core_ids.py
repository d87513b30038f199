import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import MAX_ID, internal_id, internal_ids, request_id_number, request_id_text


def test_canonical_numbers_keep_their_value():
    assert [internal_id(t) for t in ("0", "7", "19999")] == [0, 7, 19999]


@pytest.mark.parametrize("text", ["007", "", "user-7", "-1", "٣", str(2**60)])
def test_other_strings_are_hashed_into_63_bits(text):
    by_hand = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) // 2
    assert internal_id(text) == by_hand <= MAX_ID


@given(st.lists(st.text(), max_size=20))
def test_a_batch_maps_like_its_members(texts):
    assert internal_ids(texts).tolist() == [internal_id(t) for t in texts]


@given(st.integers(0, MAX_ID))
def test_request_id_text_reads_back(number):
    assert request_id_number(request_id_text(number)) == number


@pytest.mark.parametrize("text", ["", "1", "g" * 16, "f" * 16, "0" * 17])
def test_a_malformed_request_id_is_refused(text):
    with pytest.raises(ValueError):
        request_id_number(text)
