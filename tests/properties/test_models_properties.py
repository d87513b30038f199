import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.calibration import fit_calibrator
from models.encode import encode
from models.features import Feature, FeatureSpec, fit_spec
from models.hashing import rows_of_ids, splitmix64
from models.metrics import auc, gauc, ndcg_at_k

IDS = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(-1, 2**63 - 1))
FLOATS = hnp.arrays(np.float32, 17, elements=st.floats(allow_nan=True, allow_infinity=True, width=32))


@given(IDS, st.integers(2, 1_000))
def test_rows_stay_inside_the_table_and_null_is_zero(ids, num_rows):
    rows = rows_of_ids(ids, "t", num_rows)
    assert ((rows >= 0) & (rows < num_rows)).all()
    assert ((rows == 0) == (ids < 0)).all()


@given(IDS)
def test_an_id_has_the_same_row_alone_and_in_company(ids):
    together = rows_of_ids(ids, "t", 100)
    assert together.tolist() == [int(rows_of_ids(ids[i : i + 1], "t", 100)[0]) for i in range(len(ids))]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50, unique=True))
def test_the_mix_is_one_to_one(values):
    mixed = splitmix64(np.array(values, dtype=np.uint64))
    assert len(set(mixed.tolist())) == len(values)


@settings(max_examples=60)
@given(FLOATS, st.sampled_from(["identity", "log1p", "logit"]))
def test_whatever_a_column_holds_the_encoding_is_finite(values, transform):
    feature = Feature("x", "post", "numeric", transform)
    with np.errstate(over="ignore"):
        spec = fit_spec([feature], {"x": values})
        encoded = encode(spec, "post", {"x": values}).numeric
    assert encoded.isfinite().all()
    assert encoded.abs().max() <= 8.0


@settings(max_examples=40)
@given(st.integers(1, 9_000), st.integers(0, 2**32 - 1))
def test_encoding_does_not_depend_on_the_other_rows(num_rows, seed):
    rng = np.random.default_rng(seed)
    spec = FeatureSpec(
        (
            Feature("x", "post", "numeric", "log1p", 0.3, 1.7, True),
            Feature("i", "post", "categorical", table="t", num_rows=50, dim=2),
        )
    )
    columns = {"x": rng.random(num_rows).astype(np.float32), "i": rng.integers(-1, 200, num_rows)}
    whole = encode(spec, "post", columns)
    at = int(rng.integers(num_rows))
    alone = encode(spec, "post", {n: v[at : at + 1] for n, v in columns.items()})
    assert (whole.numeric[at] == alone.numeric[0]).all()
    assert (whole.ids[at] == alone.ids[0]).all()


@given(hnp.arrays(np.float64, 30, elements=st.floats(-100, 100)), st.integers(0, 2**32 - 1))
def test_rank_metrics_do_not_change_under_an_increasing_map(scores, seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, 30), rng.integers(0, 4, 30)
    scores = np.round(scores, 3)
    mapped = 3 * scores + 1
    for metric in (
        lambda s: auc(labels, s),
        lambda s: gauc(labels, s, groups),
        lambda s: ndcg_at_k(labels, s, groups, 5),
    ):
        np.testing.assert_allclose(metric(scores), metric(mapped))


@given(hnp.arrays(np.float64, 30, elements=st.floats(-100, 100)), st.integers(0, 2**32 - 1))
def test_auc_of_the_reversed_score_is_the_complement(scores, seed):
    labels = np.random.default_rng(seed).integers(0, 2, 30)
    np.testing.assert_allclose(auc(labels, scores) + auc(labels, -scores), 1.0)


@settings(max_examples=50)
@given(hnp.arrays(np.float64, 60, elements=st.floats(-12, 12)), st.integers(0, 2**32 - 1))
def test_a_calibrator_is_always_finite_and_increasing(logits, seed):
    labels = np.random.default_rng(seed).integers(0, 2, 60).astype(float)
    found = fit_calibrator(logits, labels)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.slope > 0
