import numpy as np

from serving.funnel.input_bounds import InputBounds
from validation.bounds import compile_bounds

BOUNDS = {
    "v__share": {"min": 0.0, "max": 1.0},
    "v__count": {"min": 0, "max": None},
}


def test_values_outside_read_as_null_and_are_counted() -> None:
    told: list[tuple[str, int]] = []
    bounds = InputBounds(BOUNDS, lambda name, values: told.append((name, values)))
    given = {
        "v__share": np.array([0.5, 1.5, np.nan, -np.inf], dtype=np.float32),
        "v__count": np.array([3, -1, -7, 0], dtype=np.int64),
        "v__other": np.array(["a", "b", "c", "d"], dtype=object),
    }
    found = bounds.applied(given)
    np.testing.assert_array_equal(found["v__share"], np.array([0.5, np.nan, np.nan, np.nan], dtype=np.float32))
    assert found["v__share"].dtype == np.float32
    assert found["v__count"].tolist() == [3, -1, -1, 0]  # -1 is null already, and no violation
    assert found["v__other"] is given["v__other"]
    assert sorted(told) == [("v__count", 1), ("v__share", 2)]
    assert given["v__share"][1] == 1.5


def test_legal_rows_pass_as_they_are() -> None:
    given = {"v__share": np.array([0.0, 1.0], dtype=np.float32)}
    assert InputBounds(BOUNDS, lambda *_: None).applied(given)["v__share"] is given["v__share"]


def test_a_rate_above_one_is_outside_what_the_gates_allow() -> None:
    told: list[str] = []
    bounds = InputBounds(compile_bounds(["post_activity__rate_click_24h"]), lambda name, values: told.append(name))
    found = bounds.applied({"post_activity__rate_click_24h": np.array([0.1, 7.0], dtype=np.float32)})
    assert told == ["post_activity__rate_click_24h"]
    assert np.isnan(found["post_activity__rate_click_24h"][1])
