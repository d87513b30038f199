"""One run of a gate: suites over subjects, rows into quarantine, the verdict written down whatever it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.clock import Clock, WallClock
from core.errors import GateError, LeakError
from core.workspace import Workspace
from events.quarantine import quarantine
from validation.engine import Engine, Outcome
from validation.refusal import too_many_message, unmet_message
from validation.report import GateReport, SuiteReport, record
from validation.rules import Suite
from validation.subjects import Subject

Told = Callable[[str], None]
"""Told the name of each suite as it starts."""


def silent(_: str) -> None:
    """Tells nobody."""


@dataclass
class Gate:
    """A run in progress; `reports` fills as suites are judged, `drift` where builds are compared."""

    name: str
    workspace: Workspace
    engine: Engine
    ran_at: datetime
    told: Told = silent
    reports: list[SuiteReport] = field(default_factory=list)
    drift: dict[str, Any] | None = None

    def require(self, suite: Suite, frame: pd.DataFrame, *, num_rows: int | None = None) -> None:
        """Judges a frame whose rows cannot be taken out. Raises GateError when an expectation is not met.

        `num_rows` is what the frame was drawn from, for the report.
        """
        outcomes = self._validate(suite, frame, None)
        is_passed = all(outcome.is_met for outcome in outcomes)
        self.reports.append(SuiteReport(suite.name, len(suite.rules), num_rows or len(frame), 0, {}, is_passed))
        if not is_passed:
            raise GateError(unmet_message(suite, outcomes, frame))

    def clean(self, suite: Suite, subject: Subject) -> int:
        """Rows quarantined: those that break a row rule, with every reason, now gone from the table.

        Raises GateError, and leaves the table as it was, when a table rule is not met or more than
        `suite.max_failing` of the rows are bad.
        """
        outcomes = self._validate(suite, subject.frame, subject)
        if not all(outcome.is_met for outcome in outcomes):
            self._report(suite, subject, 0, {}, is_passed=False)
            raise GateError(unmet_message(suite, outcomes, subject.frame, subject))
        places, texts, reasons = self._broken(outcomes, subject.frame)
        if len(places) > suite.max_failing * subject.num_rows:
            self._report(suite, subject, 0, reasons, is_passed=False)
            raise GateError(too_many_message(suite, len(places), subject.num_rows, reasons))
        if len(places):
            addresses = subject.addresses[places]
            quarantine(self.workspace, f"{self.name}_{suite.name}", subject.table.rows_at(addresses), texts)
            subject.table.withdraw(addresses)
        self._report(suite, subject, len(places), reasons, is_passed=True)
        return len(places)

    def _report(
        self, suite: Suite, subject: Subject, num_bad: int, reasons: dict[str, int], *, is_passed: bool
    ) -> None:
        self.reports.append(SuiteReport(suite.name, len(suite.rules), subject.num_rows, num_bad, reasons, is_passed))

    def _validate(self, suite: Suite, frame: pd.DataFrame, subject: Subject | None) -> list[Outcome]:
        self.told(suite.name)
        num_rows = subject.num_rows if subject else None
        return self.engine.validate(suite, frame, num_rows=num_rows, run=self.name, at=self.ran_at)

    def _broken(
        self, outcomes: list[Outcome], frame: pd.DataFrame
    ) -> tuple[NDArray[np.int64], list[str], dict[str, int]]:
        """Places of the rows that break a row rule, their reasons joined, and rows per reason."""
        rules = [outcome.rule for outcome in outcomes if outcome.rule.level == "row" and outcome.num_unexpected]
        why: dict[int, list[str]] = {}
        counts: dict[str, int] = {}
        for rule, rows in zip(rules, self.engine.locate(rules, frame), strict=True):
            counts[rule.reason] = counts.get(rule.reason, 0) + len(rows)
            for row in rows.tolist():
                why.setdefault(row, []).append(rule.reason)
        places = sorted(why)
        return np.asarray(places, dtype=np.int64), ["; ".join(why[place]) for place in places], counts


@contextmanager
def opened(name: str, workspace: Workspace, clock: Clock, told: Told) -> Iterator[Gate]:
    """A gate whose results, Data Docs and last word are written when the block ends, refused or not.

    Raises what the block raises; a refusal's message ends with where to read more.
    """
    ran_at = WallClock().now()
    gate = Gate(name, workspace, Engine(workspace.docs), ran_at, told)
    refusal: GateError | LeakError | None = None
    try:
        yield gate
    except (GateError, LeakError) as error:
        refusal = error
    told("Data Docs")
    docs = gate.engine.build_docs()
    record(
        workspace.docs,
        GateReport(name, clock.now(), ran_at, tuple(gate.reports), docs, str(refusal) if refusal else None, gate.drift),
    )
    if refusal is not None:
        advice = "mend the source and import or build it again; no row was changed by this suite"
        raise type(refusal)(f"gate {name}: {refusal}\n  {advice}; all results: {docs}") from refusal
