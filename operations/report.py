"""The evaluation for people and for machines: table, plot, JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from core.files import write_atomically
from operations.measure import CEILING, FLOOR, Interval
from operations.outcome import Loss, Outcome, PolicySummary

LABELS = {
    "random": "random",
    "popularity": "popularity",
    "item_to_item": "item-to-item",
    "two_tower": "two-tower only",
    "funnel": "full funnel",
    "oracle": "oracle",
}
TARGET_GAIN = 0.70
"""What the full funnel should reach of the value between random and oracle."""

MAX_POPULARITY_GAIN = 0.45
"""Above this the world is too easy to tell a good funnel from a popular list."""


def label(policy: str) -> str:
    """How people read a policy's name."""
    return LABELS.get(policy, policy.replace("_", " "))


def result_table(outcome: Outcome) -> Table:
    """Value and gain per policy; in a world without headroom, absolute differences instead of gains."""
    users = f"{outcome.num_users} users in {len(outcome.seeds)} seeds"
    table = Table(title=f"True value per impression, {outcome.dataset}: {users}", title_justify="left")
    columns = ("policy", "V", "± sd", "gain" if outcome.has_headroom else "V − V_random", "± sd", "95 % interval")
    for place, heading in enumerate(columns):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for policy in outcome.policies:
        table.add_row(*_result_row(policy, outcome.has_headroom))
    table.caption = caption(outcome)
    table.caption_justify = "left"
    return table


def _result_row(policy: PolicySummary, has_headroom: bool) -> tuple[str, ...]:
    value = (label(policy.policy), f"{policy.value:.4f}", f"{policy.value_sd:.4f}")
    if has_headroom:
        return (*value, f"{policy.gain.mean:.3f}", f"{policy.gain.sd:.3f}", _interval(policy.gain.interval, 3))
    return (*value, f"{policy.difference:+.5f}", "", _interval(policy.difference_interval, 5))


def _interval(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def caption(outcome: Outcome) -> str:
    """One line on how to read the numbers, and whether the target is met."""
    if not outcome.has_headroom:
        return f"no gain: even the oracle is only {outcome.headroom:+.5f} above random, so no ratio is formed"
    trained = "models trained anew per seed" if outcome.is_retrained else "one set of models"
    text = f"gain = (V − V_random) / (V_oracle − V_random); {trained}"
    names = {policy.policy for policy in outcome.policies}
    if {"funnel", "popularity"} <= names:
        funnel, popular = outcome.policy("funnel").gain.mean, outcome.policy("popularity").gain.mean
        text += f"; target funnel ≥ {TARGET_GAIN:.2f} {'met' if funnel >= TARGET_GAIN else 'MISSED'}"
        if popular > MAX_POPULARITY_GAIN:
            text += f"; popularity above {MAX_POPULARITY_GAIN:.2f}: this world is easy"
    return text


def breakdown_table(outcome: Outcome) -> Table:
    """What else the slates are like: new users, variety, concentration, latency."""
    table = Table(title=f"Slates of {outcome.slots}", title_justify="left")
    headings = ("policy", "new users", "topics", "creators", "Gini", "top 1 %", "p50 ms", "p99 ms")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=place == 0)
    for p in outcome.policies:
        has_gain = outcome.has_headroom and np.isfinite(p.gain_new_users)
        table.add_row(
            label(p.policy) + _remarks(p),
            f"{p.gain_new_users:.3f}" if has_gain else "",
            f"{p.topics_per_slate:.1f}",
            f"{p.creators_per_slate:.1f}",
            f"{p.creator_gini:.2f}",
            f"{p.top_creator_share:.1%}",
            f"{p.latency_ms_p50:.1f}",
            f"{p.latency_ms_p99:.1f}",
        )
    table.caption = (
        f"gain of the {outcome.num_new_users} new among {outcome.num_users} users; distinct topics and creators per "
        "slate; Gini and top 1 %: how exposure is shared among all creators"
    )
    table.caption_justify = "left"
    return table


def _remarks(policy: PolicySummary) -> str:
    """What was not as it should be while the policy served, in red."""
    remarks = [f"{count} without {part}" for part, count in policy.degraded.items()]
    if policy.slots_filled < 1:
        remarks.append(f"{policy.slots_filled:.0%} of slots filled")
    return f"\n[red]{', '.join(remarks)}[/]" if remarks else ""


def loss_table(losses: Sequence[Loss]) -> Table:
    """Where value is lost between the oracle and the full funnel."""
    table = Table(title="Where value is lost", title_justify="left")
    for heading in ("after", "candidates", "gain left", "lost", "oracle slate", "best 100"):
        table.add_column(heading, justify="left" if heading == "after" else "right", no_wrap=heading == "after")
    for loss in losses:
        table.add_row(
            loss.step,
            f"{loss.candidates:,.0f}" if np.isfinite(loss.candidates) else "",
            f"{loss.gain:.3f}",
            f"{loss.lost:.3f}" if loss.lost else "",
            f"{loss.recall:.0%}" if np.isfinite(loss.recall) else "",
            f"{loss.recall_top:.0%}" if np.isfinite(loss.recall_top) else "",
        )
    table.caption = (
        "gain left: what is still possible, the candidates ranked by truth; after the second stage by the models. "
        "Right: share of the oracle's slate and of the 100 truly best posts that is still there"
    )
    table.caption_justify = "left"
    return table


def write_plot(outcome: Outcome, path: Path) -> None:
    """Bars of gain per policy with the spread over seeds; absolute differences where there is no headroom."""
    shown = [p for p in outcome.policies if outcome.has_headroom or p.policy != FLOOR]
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    heights = [p.gain.mean if outcome.has_headroom else p.difference for p in shown]
    errors = [_error_bar(p, outcome.has_headroom) for p in shown]
    colours = ["#8c8c8c" if p.policy in (FLOOR, CEILING) else "#2f6db5" for p in shown]
    axes.bar([label(p.policy) for p in shown], heights, color=colours)
    axes.errorbar(range(len(shown)), heights, yerr=np.array(errors).T, fmt="none", ecolor="black", capsize=4)
    for place, height in enumerate(heights):
        axes.text(place + 0.06, height, f"{height:.3f}", va="bottom", ha="left", fontsize=9)
    if outcome.has_headroom:
        axes.axhline(TARGET_GAIN, color="#b5482f", linewidth=1, linestyle="--")
        axes.set_ylabel("(V − V_random) / (V_oracle − V_random)")
    else:
        axes.set_ylabel("V − V_random")
    spread = "sd over seeds" if outcome.has_headroom and len(outcome.seeds) > 1 else "95 % bootstrap interval"
    axes.set_title(
        f"True value per impression, {outcome.dataset} ({len(outcome.seeds)} seeds; bars: {spread})", fontsize=10
    )
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _error_bar(policy: PolicySummary, has_headroom: bool) -> tuple[float, float]:
    """Lengths below and above the bar."""
    if has_headroom and len(policy.gain.per_seed) > 1:
        return policy.gain.sd, policy.gain.sd
    interval, centre = (
        (policy.gain.interval, policy.gain.mean) if has_headroom else (policy.difference_interval, policy.difference)
    )
    return max(0.0, centre - interval.low), max(0.0, interval.high - centre)


def write_json(outcome: Outcome, path: Path) -> None:
    """Writes the whole outcome; NaN becomes null, since JSON has none."""
    write_atomically(path, json.dumps(plain(outcome.to_json()), indent=2))


def summary_line(outcome: Outcome, paths: Sequence[Path]) -> dict[str, Any]:
    """The evaluation in one flat JSON object, for scripts."""
    gains = {p.policy: {"gain": p.gain.mean, "sd": p.gain.sd, "value": p.value} for p in outcome.policies}
    line = {
        "dataset": outcome.dataset,
        "seeds": len(outcome.seeds),
        "users": outcome.num_users,
        "retrained": outcome.is_retrained,
        "has_headroom": outcome.has_headroom,
        "headroom": outcome.headroom,
        "policies": gains,
        "reports": [str(path) for path in paths],
    }
    return dict(plain(line))


def metrics(outcome: Outcome) -> dict[str, float]:
    """Flat finite numbers for tracking."""
    found = {"headroom": outcome.headroom}
    for p in outcome.policies:
        found |= {
            f"value_{p.policy}": p.value,
            f"gain_{p.policy}": p.gain.mean,
            f"gain_sd_{p.policy}": p.gain.sd,
            f"gain_new_users_{p.policy}": p.gain_new_users,
            f"creator_gini_{p.policy}": p.creator_gini,
            f"topics_per_slate_{p.policy}": p.topics_per_slate,
            f"latency_ms_p99_{p.policy}": p.latency_ms_p99,
        }
    found |= {f"gain_after_{loss.step.replace(' ', '_')}": loss.gain for loss in outcome.losses}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinity become null, mappings and sequences are entered."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
