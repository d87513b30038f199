"""The evaluation's summary, table, plot and JSON from slates worked out by hand."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from operations.outcome import Loss, Outcome, PostFacts, Served, summarise
from operations.report import (
    breakdown_table,
    caption,
    loss_table,
    metrics,
    result_table,
    summary_line,
    write_json,
    write_plot,
)

FACTS = PostFacts(
    post_ids=np.arange(10, 20),
    topic_ids=np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    creator_ids=np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1]),
    num_creators=4,
)


def served(policy, true_value, users=40, post_ids=(10, 12), spread=0.05):
    rng = np.random.default_rng(len(policy))
    values = np.repeat(true_value + rng.normal(0, spread, users)[:, None] * (spread > 0), 2, axis=1)
    return Served(
        policy=policy,
        seeds=np.repeat([1, 2], users // 2),
        user_ids=np.arange(users),
        post_ids=np.tile(np.array(post_ids), (users, 1)),
        true_values=values,
        latency_ms=np.linspace(1, 10, users),
        spec_version=f"explore-{policy}",
    )


def outcome(funnel=0.8, ceiling=1.0, losses=()):
    runs = {
        name: served(name, value)
        for name, value in (("random", 0.2), ("popularity", 0.4), ("funnel", funnel), ("oracle", ceiling))
    }
    is_new = np.zeros(40, dtype=bool)
    is_new[:10] = True
    summaries, wins = summarise(runs, FACTS, is_new, np.random.default_rng(0), resamples=100)
    return Outcome("world", "abc", (1, 2), 40, 10, 2, False, wins, ceiling - 0.2, summaries, losses)


def text_of(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_gain_of_the_funnel_is_its_share_of_the_headroom():
    assert outcome().policy("funnel").gain.mean == pytest.approx(0.75, abs=0.03)
    assert outcome().policy("random").gain.mean == 0
    assert outcome().policy("oracle").gain.mean == 1


def test_new_users_are_measured_on_their_own():
    runs = {"random": served("random", 0.0, spread=0), "oracle": served("oracle", 1.0, spread=0)}
    half = served("half", 0.5, spread=0)
    half.true_values[:10] = 0.1
    is_new = np.arange(40) < 10
    summaries, _ = summarise(runs | {"half": half}, FACTS, is_new, np.random.default_rng(0), resamples=10)
    assert summaries[2].gain_new_users == pytest.approx(0.1)
    assert summaries[2].gain.mean == pytest.approx((30 * 0.5 + 10 * 0.1) / 40)


def test_variety_counts_distinct_topics_and_creators_of_a_slate():
    runs = {
        "random": served("random", 0.1, post_ids=(10, 12)),  # topics 0, 1 of one creator
        "oracle": served("oracle", 0.9, post_ids=(10, 11)),  # topic 0 of two creators
    }
    summaries, _ = summarise(runs, FACTS, np.zeros(40, bool), np.random.default_rng(0), resamples=10)
    assert [s.topics_per_slate for s in summaries] == [2, 1]
    assert [s.creators_per_slate for s in summaries] == [1, 2]
    assert summaries[0].creator_gini == pytest.approx(0.75)
    assert summaries[1].creator_gini == pytest.approx(0.5)


def test_a_short_slate_is_reported_as_not_filled():
    runs = {"random": served("random", 0.1), "oracle": served("oracle", 0.9, post_ids=(10, -1))}
    summaries, _ = summarise(runs, FACTS, np.zeros(40, bool), np.random.default_rng(0), resamples=10)
    assert [s.slots_filled for s in summaries] == [1.0, 0.5]


def test_a_slate_with_an_unknown_post_is_refused():
    runs = {"random": served("random", 0.1, post_ids=(10, 99)), "oracle": served("oracle", 0.9)}
    with pytest.raises(ValueError, match="does not know"):
        summarise(runs, FACTS, np.zeros(40, bool), np.random.default_rng(0), resamples=10)


def test_policies_that_served_different_users_are_not_compared():
    runs = {"random": served("random", 0.1), "oracle": served("oracle", 0.9)}
    runs["oracle"].user_ids[0] = 77
    with pytest.raises(ValueError, match="other users"):
        summarise(runs, FACTS, np.zeros(40, bool), np.random.default_rng(0), resamples=10)


def test_the_table_says_whether_the_target_is_met():
    assert "target funnel ≥ 0.70 met" in caption(outcome(funnel=0.8))
    assert "target funnel ≥ 0.70 MISSED" in caption(outcome(funnel=0.6))
    assert "full funnel" in text_of(result_table(outcome()))
    assert "Gini" in text_of(breakdown_table(outcome()))


def test_a_world_without_preferences_reports_differences_and_no_ratio():
    null = outcome(funnel=0.2, ceiling=0.2)
    assert not null.has_headroom
    text = text_of(result_table(null))
    assert "no gain" in text
    assert "V − V_random" in text


def test_losses_are_shown_step_by_step():
    text = text_of(loss_table([Loss("retrieval", 1000, 0.9, 0.1, 0.5, 0.25)]))
    assert "retrieval" in text
    assert "1,000" in text
    assert "50%" in text


def test_json_holds_no_nan_and_reads_back(tmp_path):
    found = outcome(losses=(Loss("retrieval", 1000, 0.9, 0.1, float("nan"), 0.2),))
    write_json(found, tmp_path / "closed_loop.json")
    text = (tmp_path / "closed_loop.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["losses"][0]["recall"] is None


def test_the_summary_is_one_flat_json_line():
    line = json.dumps(summary_line(outcome(), []))
    assert "\n" not in line
    assert json.loads(line)["policies"]["oracle"]["gain"] == 1


def test_metrics_for_tracking_are_finite_numbers():
    found = metrics(outcome())
    assert found["gain_funnel"] == pytest.approx(0.75, abs=0.03)
    assert all(np.isfinite(list(found.values())))


@pytest.mark.parametrize("ceiling", [1.0, 0.2])
def test_the_plot_is_a_picture(tmp_path, ceiling):
    write_plot(outcome(ceiling=ceiling), tmp_path / "closed_loop.png")
    assert (tmp_path / "closed_loop.png").read_bytes().startswith(b"\x89PNG")
