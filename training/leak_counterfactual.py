"""The third question of `make leaks`: joined values must not change when nothing had happened after the cut.

One rebuild of the features serves every row between two publications, so a handful of cuts, shared by all sets,
covers thousands of rows (validation/counterfactual.py).
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.schema import INSTANT
from core.settings import Settings
from core.workspace import Workspace
from feature_repo.catalog import FIELDS
from training.examples import Examples
from training.foundation import export_views
from training.foundation_events import HOUR, read_events
from training.leak_checks import AuditConfig, CheckResult, Told, entity_ids, sampled
from training.set_files import ExampleSet
from training.sets import FOUNDATION_SERVICE, Columns, joined_features
from validation.counterfactual import PERIOD_SECONDS, changed_since, counterfactual, publication_before
from validation.leakage import Leak, in_words, rows_that_differ

FOUND = "change when what came later is taken out of the log"
ADVICE = (
    "it changes with what came after its use: look in its SQL for a later fact, and in the log for engagements "
    "that carry earlier times than they had; then build the features and the set again"
)


def choose_cuts(used_at: Mapping[str, NDArray[np.float64]], num_cuts: int, seed: int) -> list[int]:
    """Publications in unix seconds, ascending: `num_cuts` of each set's own hours, spread over it, shared if possible.

    A set with fewer hours (candidates of one evening) has all of them.
    """
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    for instants in used_at.values():
        hours = np.unique(publication_before(instants))
        fresh = hours[~np.isin(hours, list(chosen))]
        num_missing = min(num_cuts, len(hours)) - (len(hours) - len(fresh))
        if num_missing > 0:
            chosen |= {int(rng.choice(block)) for block in np.array_split(fresh, num_missing)}
    return sorted(chosen)


def rebuilt_and_compared(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sets: Mapping[str, ExampleSet],
    examples: Mapping[str, Examples],
    config: AuditConfig,
    told: Told,
) -> dict[str, CheckResult]:
    """The check's result per set; scratch workspaces are gone when it returns or raises."""
    tallies = {name: _Tally() for name in sets}
    cuts = choose_cuts(
        {name: np.asarray(rows.served_at) for name, rows in examples.items()}, config.num_cuts, config.seed
    )
    for done, second in enumerate(cuts):
        at = datetime.fromtimestamp(second, UTC)

        def step(what: str, done: int = done, at: datetime = at) -> None:
            told(f"as of {at:%m-%d %H:%M}: {what}", done, len(cuts))

        with counterfactual(settings.workspace, settings, at, step) as (scratch, _):
            if any(one.manifest.service == FOUNDATION_SERVICE for one in sets.values()):
                step("exporting foundation vectors")
                _export(settings, scratch, at)
            for name, rows in examples.items():
                step(f"joining {name}")
                _compare(connection, scratch, sets[name], rows, at, config, tallies[name])
    told("counterfactual", len(cuts), len(cuts))
    return {name: tally.result() for name, tally in tallies.items()}


def _export(settings: Settings, scratch: Workspace, at: datetime) -> None:
    """Fills the exported views of the cut log by the snapshots that had learned by then.

    Raises LeakError where a snapshot had learned from what the cut log does not have.
    """
    export_views(scratch, settings.workspace, *read_events(settings, scratch), int(at.timestamp() // HOUR))


def _compare(
    connection: duckdb.DuckDBPyConnection,
    scratch: Workspace,
    found: ExampleSet,
    all_rows: Examples,
    at: datetime,
    config: AuditConfig,
    tally: "_Tally",
) -> None:
    served_at = np.asarray(all_rows.served_at)
    start = at.timestamp()
    group = np.flatnonzero((served_at >= start) & (served_at < start + PERIOD_SECONDS))
    if not len(group):
        return
    rows = sampled(all_rows.take(group), config.rows_per_cut, config.seed)
    ids = entity_ids(connection, rows)
    is_changed = changed_since(connection, at, ids, np.asarray(rows.served_at))
    kept = np.flatnonzero(~is_changed)
    tally.num_left_out += int(is_changed.sum())
    if not len(kept):
        return
    rows, ids = rows.take(kept), {entity: values[kept] for entity, values in ids.items()}
    micros = np.round(np.asarray(rows.served_at) * 1e6).astype(np.int64)
    table = pa.table({f"{entity}_id": values for entity, values in ids.items()})
    table = table.append_column("served_at", pa.array(micros, pa.int64()).cast(INSTANT))
    names = [name for name in found.manifest.columns if name in FIELDS]
    tally.add(rows, joined_features(scratch, table, found.manifest.service, names))


class _Tally:
    """Differences of one set, summed over the cuts."""

    def __init__(self) -> None:
        self.num_cuts = self.num_rows = self.num_values = self.num_left_out = 0
        self._rows: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, rows: Examples, rebuilt: Columns) -> None:
        self.num_cuts += 1
        self.num_rows += rows.num_rows
        for name, expected in rebuilt.items():
            stored = np.asarray(rows.columns[name])
            odd = rows_that_differ(stored, expected)
            self.num_values += rows.num_rows
            if len(odd):
                self._rows[name] = self._rows.get(name, 0) + len(odd)
                shown = self._examples.setdefault(name, [])
                shown += [_difference(rows, int(r), stored[r], expected[r]) for r in odd[: 3 - len(shown)]]

    def result(self) -> CheckResult:
        leaks = [
            Leak("counterfactual", name, count, self.num_rows, FOUND, tuple(self._examples[name]), ADVICE)
            for name, count in sorted(self._rows.items(), key=lambda item: -item[1])
        ]
        left_out = f"; {self.num_left_out:,} rows left out, their entity changed" if self.num_left_out else ""
        note = f"{self.num_cuts} cuts{left_out}"
        return CheckResult("counterfactual", self.num_rows, self.num_values, tuple(leaks), note)


def _difference(rows: Examples, row: int, stored: object, expected: object) -> str:
    at = datetime.fromtimestamp(float(rows.served_at[row]), UTC)
    return (
        f"user {rows.user_ids[row]} and post {rows.post_ids[row]} at {at:%Y-%m-%d %H:%M:%S} "
        f"have {in_words(stored)}, rebuilt {in_words(expected)}"
    )
