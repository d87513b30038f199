"""Users' sequences cut into windows of equal length, so that a state is made of the events just before it.

A window starts every half length; an event belongs to the first window that holds it with at least half a window before
it. Which window, and where in it, follows from the event's number alone: what comes later changes no state.
Legend: W windows, L events of one, N states.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encode import EncodedSide
from models.foundation import FoundationModel, flag_columns, gap_buckets
from training.foundation_events import UserEvents


@dataclass(frozen=True)
class Windows:
    """Windows of all users, user by user: `of_user` [W], number of their first event within the user `start` [W]."""

    events: UserEvents
    length: int
    first: NDArray[np.int64]
    """Window of each user's first event, [U + 1]."""
    of_user: NDArray[np.int64]
    start: NDArray[np.int64]

    def locate(
        self, users: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Window and place in its states (0 before any event) of each user row's state after `counts` events, [N]."""
        half = self.length // 2
        number = np.where(counts <= self.length, 0, -((self.length - counts) // half))
        return self.first[users] + number, counts - number * half

    def events_of(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of events, [W, L], -1 behind the user's last."""
        user = self.of_user[windows]
        rows = (self.events.first[user] + self.start[windows])[:, None] + np.arange(self.length)
        return np.where(rows < self.events.first[user + 1][:, None], rows, -1)


def cut_windows(events: UserEvents, length: int) -> Windows:
    """Windows of `length` events; a user without events has one that is empty."""
    counts, half = np.diff(events.first), length // 2
    numbers = np.where(counts <= length, 1, 1 - ((length - counts) // half))
    first = np.concatenate([[0], np.cumsum(numbers)])
    of_user = np.repeat(np.arange(len(counts)), numbers)
    return Windows(events, length, first, of_user, (np.arange(first[-1]) - first[of_user]) * half)


def encode_windows(
    module: FoundationModel,
    windows: Windows,
    chosen: NDArray[np.int64],
    users: EncodedSide,
    posts: EncodedSide,
    also: NDArray[np.int64],
) -> tuple[Tensor, Tensor, NDArray[np.int64], EncodedSide]:
    """States [W, L + 1, E] of the chosen windows; vectors [P, D], rows of the catalogue [P] and inputs of their posts.

    `also` are rows of the catalogue whose vectors are wanted besides.
    """
    rows_WL = windows.events_of(chosen)
    rows_WL = rows_WL[:, : max(1, int((rows_WL >= 0).sum(1).max()))]
    events, device = windows.events, posts.numeric.device
    is_event_WL = rows_WL >= 0
    post_rows, place = np.unique(np.concatenate([events.post[rows_WL[is_event_WL]], also]), return_inverse=True)
    encoded = posts.take(torch.from_numpy(post_rows).to(device))
    contents_PE, vectors_PD = module.posts(encoded)
    place_WL = np.zeros(rows_WL.shape, dtype=np.int64)
    place_WL[is_event_WL] = place[: int(is_event_WL.sum())]
    seen = torch.from_numpy(place_WL.ravel()).to(device)
    if not len(post_rows):  # of users who have seen nothing
        contents_PE, vectors_PD = (part.new_zeros(1, part.shape[1]) for part in (contents_PE, vectors_PD))
    contents, vectors = (part.index_select(0, seen).view(*rows_WL.shape, -1) for part in (contents_PE, vectors_PD))
    flags = torch.from_numpy(np.where(is_event_WL, events.flags[rows_WL], 0)).to(device)
    before = np.where(is_event_WL, np.maximum(rows_WL - 1, events.first[windows.of_user[chosen]][:, None]), 0)
    gaps = torch.from_numpy(np.where(is_event_WL, events.at[rows_WL] - events.at[before], 0.0)).to(device)
    side = users.take(torch.from_numpy(windows.of_user[chosen]).to(device))
    states = module.states(side, contents, vectors, flag_columns(flags), gap_buckets(gaps))
    return states, vectors_PD, post_rows, encoded
