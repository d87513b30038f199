import pytest

from serving.funnel.budget import Budget
from serving.spec_limits import DeadlinesSpec

DEADLINES = DeadlinesSpec(
    request_ms=100, user_ms=15, retrieval_ms=30, first_stage_ms=5, second_stage_ms=40, rerank_ms=10
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("elapsed_ms", "retrieval", "second_stage"),
    [(0, 1.0, 1.0), (50, 1.0, 1.0), (60, 1.0, 0.75), (75, 0.5, 0.375), (90, 0.0, 0.0), (500, 0.0, 0.0)],
)
def test_a_stage_has_what_is_left_before_the_rules_and_at_most_its_own(elapsed_ms, retrieval, second_stage):
    clock = Clock()
    budget = Budget(DEADLINES, clock)
    clock.now = elapsed_ms / 1000
    assert budget.share("retrieval") == pytest.approx(retrieval)
    assert budget.left_seconds("retrieval") == pytest.approx(0.030 * retrieval)
    assert budget.share("second_stage") == pytest.approx(second_stage)


def test_an_overrun_says_by_how_much():
    budget = Budget(DEADLINES)
    assert budget.overrun("second_stage", 0.040) == ()
    assert budget.overrun("second_stage", 0.052) == ("overran its 40 ms: 52.0 ms",)


def test_without_deadlines_time_never_runs_out():
    clock = Clock()
    budget = Budget(None, clock)
    clock.now = 1e6
    assert budget.share("second_stage") == 1.0
    assert budget.left_seconds("retrieval") is None
    assert budget.overrun("rerank", 1e6) == ()
