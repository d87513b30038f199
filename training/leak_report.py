"""What `make leaks` tells: a table, reports/leaks.json, and the refusal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from core.errors import LeakError
from core.files import write_atomically
from core.workspace import Workspace
from training.leak_checks import AuditConfig, SetAudit


def audit_table(audits: Sequence[SetAudit]) -> Table:
    """One line per set and check."""
    table = Table("set", "check", "rows", "values", "leaks", "", title="Leaks")
    for audit in audits:
        for check in audit.checks:
            name = audit.name if check is audit.checks[0] else ""
            counts = (check.num_rows, check.num_values, len(check.leaks))
            table.add_row(name, check.check, *(f"{count:,}" for count in counts), check.note)
    return table


def write_audit(workspace: Workspace, audits: Sequence[SetAudit], config: AuditConfig, at: datetime) -> Path:
    """Path of the report, which replaces the last one; `at` is the platform's time."""
    path = workspace.reports / "leaks.json"
    fields = {
        "at": at.astimezone(UTC).isoformat(),
        "data_version": workspace.manifest().data_version,
        "config": asdict(config),
        "sets": {
            audit.name: {
                "status": "refused" if audit.leaks else "passed",
                "set_id": audit.set_id,
                "rows": audit.num_rows,
                "checks": [asdict(check) for check in audit.checks],
            }
            for audit in audits
        },
    }
    write_atomically(path, json.dumps(fields, indent=1))
    return path


def require_clean(audits: Sequence[SetAudit], report: Path) -> None:
    """Raises LeakError naming set, feature, rows and examples where an audit found a leak; `report` has all of them."""
    lines: list[str] = []
    for audit in audits:
        if not audit.leaks:
            continue
        shown = [leak for check in audit.checks for leak in check.leaks[:2]]
        lines += [f"training set {audit.name}, {leak.check}: {leak}" for leak in shown]
        if len(audit.leaks) > len(shown):
            lines.append(f"training set {audit.name}: {len(audit.leaks) - len(shown)} more features leak")
    if lines:
        raise LeakError("refused:\n  " + "\n  ".join(lines) + f"\n  do not train on it; all findings: {report}")
