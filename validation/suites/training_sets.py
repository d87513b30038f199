"""Suite of a training set: what its rows must be before anything learns from them.

A training set is derived, so a row cannot be mended there: every rule is about the table, and a bad row
means that the log or the features were not gated. Text columns are codes and stay out.
"""

from collections.abc import Iterable
from dataclasses import replace

from core.schema import HEADS
from feature_repo.catalog import FIELDS
from validation.rules import Rule, Suite, mean_within, never_null, num_rows_at_least, within
from validation.suites.features import feature_range

LEAST_ROWS = 100


def training_set_suite(name: str, features: Iterable[str], is_labelled: bool, span: tuple[float, float]) -> Suite:
    """Suite of the training set `name` with `features` (`view__feature`), serve times within `span` in unix seconds.

    Features outside the catalogue (request context) have no rule; unlabelled sets (candidates) none about labels.
    """
    rules: list[Rule] = [num_rows_at_least(LEAST_ROWS)]
    rules += [_of_table(never_null(column)) for column in ("user_id", "post_id", "served_at")]
    rules += [_of_table(within(column, 0)) for column in ("user_id", "post_id")]
    rules.append(within("served_at", *span, "served_at lies outside the data", "table"))
    rules.append(within("weight", 0.0, None, "weight is negative", "table"))
    if is_labelled:
        rules += [within(f"label_{head}", 0.0, 1.0, f"label_{head} is not 0 to 1", "table") for head in HEADS]
        rules.append(mean_within("is_positive", 1e-4, 1.0))
    for feature in sorted(set(features) & FIELDS.keys()):
        low, high = feature_range(FIELDS[feature])
        if (low, high) != (None, None):
            rules.append(within(feature, low, high, f"{feature} is out of range", "table"))
    return Suite(f"training_set_{name}", f"training set {name}", tuple(rules), max_failing=0.0)


def _of_table(rule: Rule) -> Rule:
    return replace(rule, level="table")
