import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.cursor import Cursor, CursorError, CursorSigner
from serving.funnel.arrange import Spread, arrange
from serving.funnel.blending import blend
from serving.funnel.candidates import best_first
from serving.funnel.constraints import Constraints, ExposureFloor, SourceSlot
from serving.funnel.draw import Exploration
from serving.funnel.row_cache import RowCache
from serving.spec_file import merge

scores = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=25).map(np.array)
sources = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=20), max_size=5)


@given(scores)
def test_best_first_is_a_permutation_and_non_finite_scores_sink(values):
    values = values.astype(np.float64)
    order = best_first(values)
    assert sorted(order.tolist()) == list(range(len(values)))
    finite = np.isfinite(values[order])
    assert not np.any(finite[1:] & ~finite[:-1])
    kept = values[order][finite]
    assert np.all(kept[1:] <= kept[:-1])


@given(sources, st.integers(1, 30))
def test_blend_loses_and_doubles_nothing(lists, room):
    given_lists = [(i, 1.0 + i, np.array(rows, dtype=np.int64)) for i, rows in enumerate(lists)]
    candidates, left = blend(given_lists, 60.0, room)
    every = {row for rows in lists for row in rows}
    assert sorted([*candidates.rows.tolist(), *left.tolist()]) == sorted(every)
    assert len(candidates) == min(room, len(every))
    for row, bits in zip(candidates.rows.tolist(), candidates.source_bits.tolist(), strict=True):
        assert bits == sum(1 << i for i, rows in enumerate(lists) if row in rows)


slates = st.fixed_dictionaries(
    {
        "num_creators": st.integers(1, 6),
        "window": st.integers(0, 3),
        "diversity": st.sampled_from([0.0, 0.3, 1.0]),
        "kind": st.sampled_from(["mmr", "dpp"]),
        "limit": st.integers(0, 30),
        "chance": st.sampled_from([0.0, 0.5, 1.0]),
        "temperature": st.sampled_from([0.0, 0.1, 5.0]),
        "share": st.sampled_from([0.0, 0.25, 1.0]),
        "every": st.integers(0, 4),
        "pin_at": st.integers(0, 30),
        "first": st.sampled_from([0, 7]),
        "seed": st.integers(0, 1000),
    }
)


@given(scores, slates)
@settings(max_examples=300)
def test_arrange_loses_and_doubles_nothing_and_keeps_its_rules(values, plan):
    values = values.astype(np.float64)
    rng, count, window = np.random.default_rng(plan["seed"]), len(values), plan["window"]
    creators = rng.integers(0, plan["num_creators"], count).astype(np.int64)
    is_small = creators < 2
    is_from = rng.random(count) < 0.3
    pins = {plan["pin_at"]: int(rng.integers(count))} if count else {}
    constraints = Constraints(
        window, pins, ExposureFloor(plan["share"], is_small),
        (SourceSlot(1, plan["every"], is_from),) if plan["every"] else (), plan["first"],
    )  # fmt: skip
    found = arrange(
        values, creators, limit=plan["limit"], constraints=constraints,
        spread=Spread(plan["diversity"], 3, plan["kind"], rng.integers(-1, 3, count).astype(np.int64)),
        exploration=Exploration(plan["chance"], None, 3, plan["temperature"]), rng=rng,
    )  # fmt: skip
    order = found.order.tolist()
    assert len(order) == len(set(order)) == min(plan["limit"], count)
    assert np.all((found.propensities > 0) & (found.propensities <= 1 + 1e-12))
    pin_at = plan["pin_at"] - plan["first"]
    is_pinned = np.array([at == pin_at for at in range(len(order))], dtype=bool)
    if is_pinned.any():
        assert order[pin_at] == pins[plan["pin_at"]]
        assert "pinned" in found.moved_by[order[pin_at]]
    finite = np.isfinite(values[found.order[~is_pinned]])
    assert not np.any(finite[1:] & ~finite[:-1])
    clashes = sum(creators[order[i]] in creators[order[max(0, i - window) : i]] for i in range(len(order)))
    assert clashes <= found.num_relaxed.get("creator_window", 0) + is_pinned.sum()
    if window == 0 and not is_pinned.any():
        for n in range(1, len(order) + 1):
            missing = int(plan["share"] * n + 1e-9) - is_small[order[:n]].sum()
            assert missing <= found.num_relaxed.get("exposure_floor", 0)


@given(scores, st.integers(0, 30))
def test_rules_that_are_off_change_nothing(values, limit):
    values = values.astype(np.float64)
    creators = np.arange(len(values), dtype=np.int64)
    off = Constraints(0, {}, ExposureFloor(0.0, creators > 3), (SourceSlot(0, 1, creators > 3),) * 0)
    found = arrange(
        values, creators, limit=limit, constraints=off, spread=Spread(0.0, kind="dpp"),
        exploration=Exploration(0.0, None, 5, 0.0),
    )  # fmt: skip
    assert found.order.tolist() == best_first(values)[:limit].tolist()
    assert set(found.propensities.tolist()) <= {1.0}
    assert not any(found.moved_by)


ids = st.integers(0, 2**63 - 1)


@given(ids, ids, ids, st.integers(0, 2**32 - 1), st.text(max_size=10))
def test_cursor_comes_back_as_written(visit, ranked, user, offset, surface):
    signer = CursorSigner(b"k" * 32, 60)
    cursor = Cursor(visit, ranked, user, offset)
    assert signer.read(signer.write(cursor, surface), user, surface) == cursor


@given(st.integers(0, 60), st.characters(codec="ascii"))
def test_an_altered_cursor_is_refused_or_means_the_same(place, letter):
    signer = CursorSigner(b"k" * 32, 3600)
    cursor = Cursor(17, 18, 4, 20)
    text = signer.write(cursor, "explore")
    altered = text[: place % len(text)] + letter + text[place % len(text) + 1 :]
    try:
        assert signer.read(altered, 4, "explore") == cursor
    except CursorError:
        assert altered != text


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=40), st.integers(1, 8))
def test_row_cache_answers_as_if_it_read_everything(steps, size):
    cache = RowCache(size, 10.0)
    now = 0.0
    for number, wait in steps:
        now += wait
        ids = np.array([number, (number * 7) % 31, number], dtype=np.int64)
        found = cache.gather(ids, now, lambda wanted: {"twice": wanted * 2})
        assert found["twice"].tolist() == (ids * 2).tolist()
        assert len(cache) <= size


nested = st.recursive(
    st.integers() | st.none(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abcd"), nested, max_size=4)


@given(mappings, mappings)
def test_merging_an_overlay_twice_changes_nothing_more(base, overlay):
    once = merge(base, overlay)
    assert merge(once, overlay) == once
    assert merge(base, {}) == base
