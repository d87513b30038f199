"""Explanations on disk: found at once and after a restart, bounded in age and size."""

import pytest

from serving.explanations import Explanations
from serving.spec_operation import ExplanationsSpec

AT = "2026-03-15T00:00:00+00:00"
AT_SECONDS = 1773532800.0
HOUR = 3600.0


def page(request_id, filler="", at=AT):
    return {"request_id": request_id, "user_id": 1, "requested_at": at, "posts": [filler]}


@pytest.fixture
def opened(tmp_path):
    stores = []

    def open_one(**limits):
        stores.append(Explanations(tmp_path / "explanations.db", ExplanationsSpec(**limits)))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def test_a_page_can_be_explained_at_once_and_after_a_restart(opened):
    store = opened()
    store.keep(7, lambda: page(7, "why"))
    assert store.find(7)["posts"] == ["why"]
    store.flush()
    assert store.find(7)["posts"] == ["why"]
    store.close()
    assert opened().find(7) == page(7, "why")
    assert opened().find(8) is None


def test_what_is_too_old_leaves_and_a_day_stays(opened):
    store = opened(max_age_hours=24)
    store.keep(1, lambda: page(1, at="2026-03-13T23:00:00+00:00"))
    store.keep(2, lambda: page(2, at="2026-03-14T00:30:00+00:00"))
    store.flush()
    store.trim(AT_SECONDS)
    assert store.find(1) is None
    assert store.find(2) is not None


def test_the_file_stays_within_its_room_and_the_newest_stay(opened, tmp_path):
    import random

    rng = random.Random(1)
    store = opened(max_megabytes=0.5)
    for number in range(600):
        filler = "".join(rng.choices("abcdefghijklmnop", k=4_000))
        at = f"2026-03-14T{number // 60:02d}:{number % 60:02d}:00+00:00"
        store.keep(number, lambda n=number, f=filler, a=at: page(n, f, a))
        if number % 100 == 99:
            store.flush()
    store.trim(AT_SECONDS)
    assert store._used_bytes() <= 500_000
    assert store.find(599) is not None
    assert store.find(0) is None


def test_one_page_that_cannot_be_explained_is_counted_and_stops_nobody(tmp_path):
    dropped = []
    store = Explanations(tmp_path / "explanations.db", ExplanationsSpec(), lambda: dropped.append(1))
    store.keep(1, lambda: 1 / 0)
    store.flush()
    store.keep(2, lambda: page(2))
    store.flush()
    assert store.find(2) is not None
    assert store.find(1) is None
    assert dropped == [1]
    store.close()
    store.keep(3, lambda: page(3))
    assert len(dropped) == 2
