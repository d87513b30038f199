import numpy as np

from training.leak_counterfactual import choose_cuts
from validation.counterfactual import publication_before

DAY = 86_400.0


def hours_of(*days):
    return np.concatenate([np.arange(day * DAY, (day + 1) * DAY, 900.0) for day in days])


def test_cuts_are_spread_over_the_set_and_drawn_by_the_seed():
    used_at = {"second_stage": hours_of(*range(100, 110))}
    cuts = choose_cuts(used_at, 5, seed=1)
    assert len(cuts) == 5
    assert cuts == choose_cuts(used_at, 5, seed=1) != choose_cuts(used_at, 5, seed=2)
    assert [int(cut // DAY) // 2 for cut in cuts] == [50, 51, 52, 53, 54]


def test_sets_of_the_same_hours_share_their_cuts_and_others_add_their_own():
    evening = np.full(30, 110 * DAY)
    used_at = {"second_stage": hours_of(100, 101), "retrieval": hours_of(100, 101), "first_stage": evening}
    cuts = choose_cuts(used_at, 3, seed=0)
    assert len(cuts) == 4
    assert cuts[-1] == publication_before(evening[:1])[0]


def test_a_short_set_has_all_of_its_hours():
    assert len(choose_cuts({"s": np.array([10 * DAY, 10 * DAY + 3_600])}, 5, seed=0)) == 2
