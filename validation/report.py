"""What a gate found, and the last word of every gate in `docs/gates.json` for `make status`."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.files import write_atomically


@dataclass(frozen=True)
class SuiteReport:
    """One suite of one run. `reasons`: quarantined rows by reason; a row may have several reasons."""

    suite: str
    num_expectations: int
    num_rows: int
    num_quarantined: int
    reasons: dict[str, int]
    is_passed: bool


@dataclass(frozen=True)
class GateReport:
    """One run of a gate. `at` is the platform's time, `ran_at` the wall's; `refusal` says why it refused, if so.

    `drift` sums up how far features moved, where the gate compares builds.
    """

    gate: str
    at: datetime
    ran_at: datetime
    suites: tuple[SuiteReport, ...]
    docs: Path
    refusal: str | None = None
    drift: dict[str, Any] | None = None

    @property
    def num_rows(self) -> int:
        return sum(suite.num_rows for suite in self.suites)

    @property
    def num_quarantined(self) -> int:
        return sum(suite.num_quarantined for suite in self.suites)

    def to_entry(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "gate": self.gate,
            "status": "refused" if self.refusal else "passed",
            "at": self.at.astimezone(UTC).isoformat(),
            "ran_at": self.ran_at.astimezone(UTC).isoformat(),
            "num_rows": self.num_rows,
            "num_quarantined": self.num_quarantined,
            "refusal": self.refusal,
            "docs": self.docs.name,
            "suites": [asdict(suite) for suite in self.suites],
        } | ({} if self.drift is None else {"drift": self.drift})


def gates_path(docs: Path) -> Path:
    """Where the last result of every gate is kept."""
    return docs / "gates.json"


def record(docs: Path, report: GateReport) -> None:
    """Puts the report in the place of the gate's last one."""
    write_atomically(gates_path(docs), json.dumps(last_results(docs) | {report.gate: report.to_entry()}, indent=1))


def last_results(docs: Path) -> dict[str, dict[str, Any]]:
    """The last result of every gate by name; empty where none ran, and where the file is damaged."""
    try:
        found = json.loads(gates_path(docs).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
