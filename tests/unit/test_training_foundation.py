"""The foundation model: what it can learn, what its exported rows may know, and which weights make them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.schema import HEADS
from feature_repo.catalog import FOUNDATION_HEADS
from models.bundle import load_bundle
from models.encode import encode
from models.foundation import FoundationConfig, FoundationModel
from models.metrics import auc
from models.sequence import SequenceConfig
from tests.event_sequences import CLICKED, SEEN, catalogue_of, event_sequences
from training.checkpoints import Checkpoints
from training.fit_foundation import FoundationRun, Material, fit_foundation, shown_targets
from training.foundation import foundation_spec
from training.foundation_export import Segment, post_table, segments, user_rows, user_table
from training.foundation_windows import cut_windows, encode_windows
from training.loop import FittedModel, LoopConfig

NETWORK = FoundationConfig(
    SequenceConfig("transformer", dim=32, length=17, num_layers=1, dropout=0.0), dim=8, hidden=16
)
LOOP = LoopConfig(batch_size=8, max_epochs=12, learning_rate=1e-2, table_learning_rate=0.02, validations_per_epoch=1)
RUN = FoundationRun(NETWORK, replace(LOOP, patience=12), drawn_posts=16)
TOPICS = np.arange(32) % 4


def cycling_users(num_users, size, seed=0):
    """Users who click a post only if its topic follows that of their last click, round and round."""
    rng = np.random.default_rng(seed)
    posts = rng.integers(0, len(TOPICS), num_users * size)
    flags = np.full(len(posts), SEEN)
    for user in range(num_users):
        wanted = user % 4
        for row in range(user * size, (user + 1) * size):
            if TOPICS[posts[row]] == wanted:
                flags[row], wanted = CLICKED, (wanted + 1) % 4
    return event_sequences([size] * num_users, posts, flags)


def untrained(events, catalogue, tmp_path, seed=0):
    """A bundle of random weights, which read their inputs as well as any."""
    torch.manual_seed(seed)
    spec = foundation_spec(events, catalogue, 0)
    module = FoundationModel(spec, NETWORK, is_training=True)
    fitted = FittedModel("foundation", module, spec, NETWORK, (), (), (), {})
    return load_bundle(fitted.save(tmp_path, {}))


def test_a_cycle_of_topics_is_learnt():
    events, catalogue = cycling_users(120, 32), catalogue_of(TOPICS)
    spec = foundation_spec(events, catalogue, 100)
    material = Material.of(events, catalogue, spec, NETWORK.window, 100)
    module, _ = fit_foundation(material, spec, RUN, np.zeros(120, dtype=bool), seed=1, num_threads=1)
    fresh = cycling_users(40, 32, seed=9)
    windows = cut_windows(fresh, NETWORK.window)
    event, row, place = shown_targets(windows, 100).of(np.arange(len(windows.of_user)))
    users, posts = encode(spec, "user", fresh.columns), encode(spec, "post", catalogue.columns)
    with torch.no_grad():
        module.eval()
        states, vectors, post_rows, _ = encode_windows(
            module, windows, np.arange(len(windows.of_user)), users, posts, fresh.post[event]
        )
        state = module.user_vectors(states[torch.from_numpy(row), torch.from_numpy(place)])
        asked = torch.from_numpy(np.searchsorted(post_rows, fresh.post[event]))
        logits = module.reactions(state, vectors[asked])[:, 0].numpy()
    is_later = event % 32 >= 8
    assert auc((fresh.flags[event] == CLICKED)[is_later].astype(float), logits[is_later]) > 0.9


def test_a_snapshot_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    events, catalogue = cycling_users(60, 32), catalogue_of(TOPICS)
    spec = foundation_spec(events, catalogue, 100)
    material = Material.of(events, catalogue, spec, NETWORK.window, 100)
    run = replace(RUN, loop=replace(RUN.loop, batch_size=8, max_epochs=2, validations_per_epoch=2))
    seen = []

    def fit(checkpoints=None, stop_at=None):
        def progress(done, total):
            seen.append(done)
            if done == stop_at:
                raise KeyboardInterrupt

        nobody = np.zeros(60, dtype=bool)
        return fit_foundation(material, spec, run, nobody, None, 1, progress, 1, checkpoints)[0].state_dict()

    unbroken = fit()
    steps, saved = max(seen), Checkpoints(tmp_path / "foundation", "key", every_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(saved, stop_at=steps // 2 + 1)
    seen.clear()
    again = fit(saved)
    assert seen[0] > 1, "from the checkpoint, not from the start"
    assert all(torch.equal(weight, again[name]) for name, weight in unbroken.items())
    seen.clear()
    finished = fit(saved)
    assert seen == [steps], "a finished snapshot is not learnt again"
    assert all(torch.equal(weight, finished[name]) for name, weight in unbroken.items())


def test_what_comes_later_changes_no_exported_row(tmp_path):
    events, catalogue = cycling_users(6, 30), catalogue_of(TOPICS)
    bundle = untrained(events, catalogue, tmp_path)
    other = replace(events, post=np.where(events.hour > 17, 31 - events.post, events.post))
    other = replace(other, flags=np.where(events.hour > 17, CLICKED, events.flags))
    rows = [user_table(e, catalogue, Segment(bundle, 3, 4, 30)).to_pylist() for e in (events, other)]
    known = [[r for r in part if r["event_at"].timestamp() <= 17 * 3600] for part in rows]
    assert len(known[0]) == 6 * 14
    # The same sums in batches of other shapes differ in their last bits.
    for mine, theirs in zip(*known, strict=True):
        for head in FOUNDATION_HEADS:
            assert np.allclose(mine.pop(head), theirs.pop(head), atol=1e-5)
        assert mine == theirs
    assert not np.allclose(rows[0][-1]["click"], rows[1][-1]["click"], atol=1e-2)


def test_a_row_reads_all_that_was_visible_by_its_hour(tmp_path):
    events, catalogue = cycling_users(3, 25), catalogue_of(TOPICS)
    bundle = untrained(events, catalogue, tmp_path)
    whole = user_table(events, catalogue, Segment(bundle, 3, 4, 25)).to_pylist()
    for row in whole[::7]:
        hour = int(row["event_at"].timestamp()) // 3600
        part = user_table(events.until(hour), catalogue, Segment(bundle, hour - 1, hour, hour + 1)).to_pylist()
        alone = next(r for r in part if r["user_id"] == row["user_id"])
        assert row["num_events"] == alone["num_events"] == hour + 1
        assert np.allclose(row["click"], alone["click"], atol=1e-5)


def test_a_snapshot_makes_rows_only_after_what_it_learned(tmp_path):
    events, catalogue = cycling_users(4, 30), catalogue_of(TOPICS)
    bundles = [untrained(events, catalogue, tmp_path, seed) for seed in (0, 1)]
    parts = segments([(bundles[0], 5), (bundles[1], 15)], last_hour=29)
    assert [(p.since, p.before) for p in parts] == [(6, 16), (16, 30)]
    for part in parts:
        table = user_table(events, catalogue, part)
        hours = table["event_at"].cast("int64").to_numpy() // 3_600_000_000
        assert set(hours) == set(range(part.since, part.before))
        assert table["weights_age_hours"].to_pylist() == (hours - part.until).tolist()
    # Everybody has a row where the weights change: vectors of two snapshots do not compare.
    users, hours = user_rows(events, parts[1])
    assert users[hours == 16].tolist() == [0, 1, 2, 3]
    assert post_table(catalogue, parts[1]).num_rows == len(TOPICS)


def test_a_user_without_events_has_the_start_state(tmp_path):
    events, catalogue = event_sequences([0, 5, 0]), catalogue_of(TOPICS)
    events = replace(events, from_hour=np.array([2, 0, 9]))
    rows = user_table(events, catalogue, Segment(untrained(events, catalogue, tmp_path), 3, 4, 12)).to_pylist()
    found = {(r["user_id"], int(r["event_at"].timestamp()) // 3600): r for r in rows}
    assert sorted(found) == [(0, 4), (1, 4), (2, 9)]
    assert found[0, 4]["num_events"] == found[2, 9]["num_events"] == 0
    assert found[0, 4]["click"] == pytest.approx(found[2, 9]["click"], abs=1e-6)
    assert np.linalg.norm(found[0, 4]["click"]) > 0


def test_unseen_posts_and_creators_have_vectors_of_their_own(tmp_path):
    events, catalogue = cycling_users(4, 30), catalogue_of(TOPICS)
    bundle = untrained(events, catalogue, tmp_path)
    later = catalogue_of(np.arange(400) % 4)
    table = post_table(later, Segment(bundle, 3, 4, 12))
    vectors = np.array(table["vector"].to_pylist())
    assert vectors.shape == (400, NETWORK.dim + 1)
    # Told apart by more than their four topics: unseen creators are spread over the rows of the table.
    assert len(np.unique(vectors.round(6), axis=0)) > 4 * len(TOPICS)


def test_the_digest_tells_any_change_of_the_past():
    events, catalogue = cycling_users(3, 10), catalogue_of(TOPICS)
    changed = replace(events, flags=np.where(np.arange(30) == 4, CLICKED + 2, events.flags))
    assert events.until(3).digest(catalogue) == changed.until(3).digest(catalogue)
    assert events.until(4).digest(catalogue) != changed.until(4).digest(catalogue)


def test_products_of_exported_vectors_are_the_log_odds_of_the_head(tmp_path):
    module = untrained(cycling_users(2, 8), catalogue_of(TOPICS), tmp_path).module
    users, posts = torch.randn(2, 5, NETWORK.dim, generator=torch.Generator().manual_seed(0))
    logits, own = module.reactions(users, posts), posts @ module.reaction_post.weight.T
    for head in FOUNDATION_HEADS:
        product = (module.exported_users(users, head) * module.exported_posts(posts)).sum(1)
        assert torch.allclose(product, (logits - own)[:, HEADS.index(head)], atol=1e-5)
