"""Sequences of events cut into windows: which window and place a state has follows from its number alone."""

import numpy as np

from tests.event_sequences import event_sequences
from training.foundation_windows import cut_windows

LENGTH = 4


def test_every_state_has_a_place_with_the_events_just_before_it():
    events = event_sequences([0, 3, 4, 5, 11])
    windows = cut_windows(events, LENGTH)
    assert np.bincount(windows.of_user).tolist() == [1, 1, 1, 2, 5]
    for user, size in enumerate(np.diff(events.first)):
        for count in range(size + 1):
            (window,), (place,) = windows.locate(np.array([user]), np.array([count]))
            assert windows.of_user[window] == user
            assert place == count if count <= LENGTH else LENGTH // 2 < place <= LENGTH
            read = windows.events_of(np.array([window]))[0, :place]
            assert read.tolist() == list(range(events.first[user] + count - place, events.first[user] + count))


def test_later_events_move_no_state():
    whole, part = event_sequences([11]), event_sequences([11]).until(6)
    assert part.num_events == 7
    counts, user = np.arange(8), np.zeros(8, dtype=np.int64)
    for found, expected in zip(
        cut_windows(part, LENGTH).locate(user, counts), cut_windows(whole, LENGTH).locate(user, counts), strict=True
    ):
        assert found.tolist() == expected.tolist()


def test_counts_of_visible_events():
    events = event_sequences([2, 0, 4])
    users, hours = np.array([0, 0, 1, 2, 2]), np.array([-1, 0, 99, 2, 99])
    assert events.count_visible(users, hours).tolist() == [0, 1, 0, 3, 4]
