"""Snapshots of a catalogue that grew in the middle, so that the rows of old posts move."""

from dataclasses import fields, replace

import numpy as np

from serving.snapshot import Catalogue, Snapshot
from tests.serving_fakes import NUM_CREATORS, make_catalogue, make_snapshot

VOCABULARIES = ("languages", "countries", "media_types")


def grown_catalogue(num_new: int = 100, seed: int = 9) -> Catalogue:
    """The posts of `make_catalogue` and `num_new` with even ids among them."""
    old, new = make_catalogue(), make_catalogue(num_new, seed)
    ids = np.random.default_rng(seed).choice(np.arange(2, 1_200, 2), num_new, replace=False)
    new = replace(new, creator_ids=ids % NUM_CREATORS)  # a post keeps its creator whatever the snapshot
    order = np.argsort(np.concatenate([old.post_ids, ids]))
    names = [field.name for field in fields(Catalogue) if field.name not in VOCABULARIES]
    arrays = {name: np.concatenate([getattr(old, name), getattr(new, name)])[order] for name in names}
    arrays["post_ids"] = np.concatenate([old.post_ids, ids])[order]
    return replace(old, **arrays)


def grown_snapshot(number: int, journal_place: int = 0) -> Snapshot:
    """The world of `make_snapshot` with more posts; each number has its own rows."""
    catalogue = grown_catalogue(50 + 10 * number, seed=number)
    return replace(make_snapshot(catalogue), snapshot_id=f"snapshot-{number}", journal_place=journal_place)
