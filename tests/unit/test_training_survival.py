"""What survives a cut: values by hand, a plain oracle, and that the report says whether the target is met."""

from dataclasses import replace

import numpy as np
import pytest

from training import survival
from training.survival import FIRST_STAGE, Cut, Group, Survival, cut_request, request_rows
from training.survival_report import survival_metrics, target_line


def test_the_order_of_the_second_stage_itself_loses_nothing() -> None:
    values = np.random.default_rng(0).random(900)
    found = cut_request(values, values)
    assert found.places.tolist() == list(range(100))
    assert set(found.value.values()) == {1.0}


def test_places_and_value_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "BEST", 3)
    monkeypatch.setattr(survival, "PAGE", 2)
    monkeypatch.setattr(survival, "CUTS", (2, 4))
    values = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    scores = np.array([0.1, 0.9, 0.3, 0.8, 0.2])  # order: 1, 3, 2, 4, 0
    found = cut_request(values, scores)
    assert found.places.tolist() == [0, 2, 4]
    assert found.value == {2: pytest.approx(6 / 9), 4: pytest.approx(7 / 9)}
    assert np.isnan(cut_request(-values, scores).value[2])


def test_survival_is_what_sets_say() -> None:
    rng = np.random.default_rng(1)
    values, scores = rng.random(3_000), rng.random(3_000)
    found = cut_request(values, scores + values)
    best = set(np.argsort(-values)[:100].tolist())
    for cut in survival.CUTS:
        kept = np.argsort(-(scores + values))[:cut]
        assert (found.places < cut).mean() == len(best & set(kept.tolist())) / 100
        assert found.value[cut] == pytest.approx(np.sort(values[kept])[-20:].sum() / np.sort(values)[-20:].sum())


def test_rows_of_a_request_stay_together_wherever_they_are() -> None:
    rows = request_rows(np.array([7, 3, 7, 3, 9]))
    assert [r.tolist() for r in rows] == [[0, 2], [1, 3], [4]]


def test_the_target_wants_survival_and_value() -> None:
    good = Cut(0.91, 0.05, 0.0, 0.98, 0.01, 0.0)
    cuts = {FIRST_STAGE: {500: good}}
    met = Survival({"wide": Group(3, 5_000.0, cuts, {})}, 1)
    assert target_line(met).endswith(": met")
    for worse in (replace(good, survival=0.89), replace(good, value=0.96)):
        short = Survival({"wide": Group(3, 5_000.0, {FIRST_STAGE: {500: worse}}, {})}, 1)
        assert target_line(short).endswith(": not met")
    assert target_line(Survival({"narrow": met.groups["wide"]}, 1)) == ""
    assert survival_metrics(met) == {"wide/first_stage/survival_at_500": 0.91, "wide/first_stage/value_at_500": 0.98}
