"""An import's outcome as tables for the terminal."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from events.importers.dataset import ImportReport


def outcome_tables(report: ImportReport) -> Iterator[Table]:
    """What was taken and refused per input, each reason with up to three examples, and the rows per log table."""
    taken = Table("input", "rows", "taken", "refused", title="Inputs")
    for part in report.inputs:
        counts = (part.num_offered, part.num_taken, part.refused.num_rows)
        taken.add_row(part.table, *(f"{count:,}" for count in counts))
    yield taken
    reasons = Table("input", "reason", "rows", "examples", title="Refused", show_lines=True)
    for part in report.inputs:
        for reason, count, examples in part.reasons():
            reasons.add_row(part.table, escape(reason), f"{count:,}", escape("\n".join(examples)))
    if reasons.row_count:
        yield reasons
    written = Table("table", "rows", title="Log" if report.manifest else "Log, if it were not a dry run")
    for table, num_rows in report.tables.items():
        written.add_row(table, f"{num_rows:,}")
    yield written
