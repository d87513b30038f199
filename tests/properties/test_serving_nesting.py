"""Depth told from chunks equals depth of the parsed value, however the text is cut."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.nesting import Nesting

VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{}"\\n,:é'), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[{"\\a'), max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(VALUES, st.lists(st.integers(0, 200), max_size=6))
def test_depth_in_chunks_is_the_depth_of_the_value(value, cuts):
    text = json.dumps(value, ensure_ascii=False).encode()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    nesting = Nesting()
    found = [nesting.deepest(text[start:end]) for start, end in pairwise(edges)]
    assert max(found) == depth(value)


def test_a_text_of_brackets_escapes_or_quotes_is_told_in_time():
    for raw in (b"[", b"[]", b'\\"', b'"', b"\\", b'"\\'):
        Nesting().deepest(raw * 1_000_000)
