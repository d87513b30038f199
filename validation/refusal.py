"""The words of a refusal: which expectation, which column, how many rows, three examples, what to do."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from core.schema import TABLES
from validation.engine import Outcome
from validation.rules import Suite
from validation.subjects import Subject

_MOST_NAMED = 3


def unmet_message(
    suite: Suite, outcomes: Sequence[Outcome], frame: pd.DataFrame, subject: Subject | None = None
) -> str:
    """The message about the outcomes that are not met; examples are whole rows where `subject` has their addresses."""
    unmet = [outcome for outcome in outcomes if not outcome.is_met]
    lines = [_line(suite, outcome, frame, subject) for outcome in unmet[:_MOST_NAMED]]
    if len(unmet) > _MOST_NAMED:
        lines.append(f"and {len(unmet) - _MOST_NAMED} more expectations, see the Data Docs")
    return f"{suite.subject} refused:\n  " + "\n  ".join(lines)


def too_many_message(suite: Suite, num_bad: int, num_rows: int, reasons: dict[str, int]) -> str:
    """The message when no single rule fails too often but all together do."""
    named = ", ".join(f"{reason} ({count:,})" for reason, count in sorted(reasons.items(), key=lambda r: -r[1])[:3])
    return (
        f"{suite.subject} refused: {num_bad:,} of {num_rows:,} rows break a row rule, "
        f"at most {suite.max_failing:.0%} may be quarantined: {named}"
    )


def _line(suite: Suite, outcome: Outcome, frame: pd.DataFrame, subject: Subject | None) -> str:
    rule = outcome.rule
    head = f"{rule.expectation} on column {rule.column}"
    if rule.expected:
        head += f" ({rule.expected})"
    if outcome.observed:
        return f"{head}: {rule.reason}; found {outcome.observed} in {len(frame):,} rows"
    num_rows = subject.num_rows if subject else len(frame)
    allowed = f", at most {suite.max_failing:.0%} may fail" if rule.level == "row" else ""
    shown = "; ".join(_rows(outcome, frame, subject))
    return f"{head}: {rule.reason} in {outcome.num_unexpected:,} of {num_rows:,} rows{allowed}; examples: {shown}"


def _rows(outcome: Outcome, frame: pd.DataFrame, subject: Subject | None) -> list[str]:
    """Up to three offending rows: the table's key, then what the rule looked at."""
    texts = [f"{outcome.rule.column} = {example}" for example in outcome.examples]
    places = np.asarray(outcome.example_rows, dtype=np.int64)
    if subject is not None and len(places) and subject.table.files:
        rows = subject.table.rows_at(subject.addresses[places])
        key = [name for name in _key(subject) if name in rows.column_names]
        named = [", ".join(f"{name} {row[name]}" for name in key) for row in rows.select(key).to_pylist()]
        return [f"[{name}] {text}" for name, text in zip(named, texts, strict=False)]
    for label in ("day", "column"):
        if label in frame.columns:
            return [f"[{label} {frame[label].iloc[place]}] {text}" for place, text in zip(places, texts, strict=False)]
    return texts


def _key(subject: Subject) -> tuple[str, ...]:
    name = subject.table.name
    return TABLES[name].key if name in TABLES else ("user_id", "post_id", "creator_id", "event_at")
