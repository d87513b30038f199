"""Rows under inspection: text columns become typed ones, and each row that cannot be taken gets a reason."""

from collections.abc import Collection
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.schema import INSTANT
from events.importers.source_files import BROKEN, FILE, ROW, TextRows

Bools = NDArray[np.bool_]

_TRUE = pa.array(["1", "true", "t", "yes", "y", "1.0"])
_FALSE = pa.array(["0", "false", "f", "no", "n", "0.0"])
_EPOCH_UNITS = {"unix_s": 1_000_000.0, "unix_ms": 1_000.0, "unix_us": 1.0}


@dataclass(frozen=True)
class TimeFormat:
    """How instants are written: `iso`, `unix_s`, `unix_ms`, `unix_us` or a strptime pattern, and their zone."""

    format: str = "iso"
    zone: str = "UTC"


class Batch:
    """The rows of one input table and the first reason found against each."""

    def __init__(self, table: str, text: TextRows) -> None:
        self.table = table
        self.text = text.rows
        self._broken = text.broken
        self._reasons: NDArray[np.object_] = np.full(text.rows.num_rows, None, dtype=object)
        self._is_kept: Bools = np.ones(text.rows.num_rows, bool)

    def __len__(self) -> int:
        return int(self.text.num_rows)

    @property
    def num_offered(self) -> int:
        """Rows in the files, lines that are no rows included."""
        return len(self) + int(self._broken.num_rows)

    @property
    def is_kept(self) -> Bools:
        """Rows without a reason against them, [N]."""
        return self._is_kept

    def refuse(self, is_bad: Bools | pa.Array | pa.ChunkedArray, reason: str) -> None:
        """Notes the reason against the marked rows that have none yet."""
        marked = is_bad if isinstance(is_bad, np.ndarray) else _as_bools(is_bad)
        self._reasons[marked & self._is_kept] = reason
        self._is_kept = self._is_kept & ~marked

    def has(self, column: str | None) -> bool:
        """Whether the input has this column."""
        return column is not None and column in self.text.column_names

    def texts(self, column: str, *, is_required: bool = False) -> pa.Array:
        """The column as text, surrounding blanks removed, [N]."""
        values = pc.utf8_trim_whitespace(_whole(self.text[column]))
        values = pc.if_else(pc.equal(values, ""), None, values)
        return self._checked(column, values, values, "text", is_required)

    def integers(self, column: str, *, is_required: bool = False) -> pa.Array:
        """The column as int64; `7.0` is 7 and `7.5` is refused, [N]."""
        values = _whole(self.text[column])
        plain = pc.replace_substring_regex(values, r"\.0+$", "")
        is_whole = pc.fill_null(pc.match_substring_regex(plain, r"^\s*-?[0-9]{1,18}\s*$"), False)
        parsed = pc.utf8_trim_whitespace(pc.if_else(is_whole, plain, None)).cast(pa.int64())
        return self._checked(column, values, parsed, "a whole number", is_required)

    def ids(self, column: str) -> pa.Array:
        """The column as ids: whole numbers from 0, in every row, [N]."""
        values = self.integers(column, is_required=True)
        self.refuse(pc.less(values, 0), f"{column}: negative")
        return values

    def numbers(self, column: str, *, is_required: bool = False) -> pa.Array:
        """The column as finite float64, [N]."""
        values = _whole(self.text[column])
        parsed = _try("try_cast(trim(value) AS DOUBLE)", values)
        parsed = pc.if_else(pc.fill_null(pc.is_finite(parsed), False), parsed, None)
        return self._checked(column, values, parsed, "a finite number", is_required)

    def flags(self, column: str, *, is_required: bool = False) -> pa.Array:
        """The column as booleans, [N]."""
        values = _whole(self.text[column])
        lower = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        is_true, is_false = pc.is_in(lower, _TRUE), pc.is_in(lower, _FALSE)
        parsed = pc.if_else(pc.or_(is_true, is_false), is_true, None)
        return self._checked(column, values, parsed, "0, 1, true or false", is_required)

    def instants(self, column: str, form: TimeFormat, *, is_required: bool = False) -> pa.Array:
        """The column as microsecond UTC instants, [N]."""
        values = _whole(self.text[column])
        if form.format in _EPOCH_UNITS:
            parsed = _from_epoch(values, _EPOCH_UNITS[form.format])
        elif form.format == "iso":
            finite = "isfinite(try_cast(trim(value) AS TIMESTAMPTZ))"
            parsed = _try(f"CASE WHEN {finite} THEN try_cast(trim(value) AS TIMESTAMPTZ) END", values, form.zone)
        else:
            pattern = form.format.replace("'", "''")
            parsed = _try(f"try_strptime(trim(value), '{pattern}')::TIMESTAMPTZ", values, form.zone)
        return self._checked(column, values, parsed.cast(INSTANT), f"an instant ({form.format})", is_required)

    def vectors(self, column: str) -> pa.Array:
        """The column as lists of float32, written as `[0.1, 0.2]`, [N]."""
        values = _whole(self.text[column])
        return self._checked(column, values, _try("try_cast(value AS FLOAT[])", values), "a list of numbers", False)

    def one_of(self, column: str, values: pa.Array, allowed: Collection[str]) -> None:
        """Refuses rows whose value is present and none of the allowed ones."""
        is_bad = pc.invert(pc.is_in(values, pa.array(sorted(allowed), pa.string())))
        self.refuse(pc.and_(is_bad, pc.is_valid(values)), f"{column}: not one of {', '.join(sorted(allowed))}")

    def refused(self) -> pa.Table:
        """Every refused row: reason, table, file, row, and its content as it was read."""
        rows = self.text.filter(pa.array(~self.is_kept))
        names = [name for name in rows.column_names if name not in (FILE, ROW)]
        cells = [pc.binary_join_element_wise(name, pc.fill_null(rows[name], ""), "=") for name in names]
        content = pc.binary_join_element_wise(*cells, ", ") if cells else pa.nulls(rows.num_rows, pa.string())
        reasons = pa.array(self._reasons[~self.is_kept].tolist(), pa.string())
        values = pa.table([reasons, rows[FILE], rows[ROW], content], schema=BROKEN)
        both = pa.concat_tables([self._broken, values])
        return both.add_column(1, "table", pa.repeat(self.table, both.num_rows))

    def _checked(self, column: str, before: pa.Array, after: pa.Array, expected: str, is_required: bool) -> pa.Array:
        if is_required:
            self.refuse(pc.is_null(before), f"{column}: null")
        self.refuse(pc.and_(pc.is_null(after), pc.is_valid(before)), f"{column}: not {expected}")
        return after


def _whole(values: pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _as_bools(values: pa.Array | pa.ChunkedArray) -> Bools:
    filled: Bools = pc.fill_null(_whole(values), False).to_numpy(zero_copy_only=False)
    return filled


def _from_epoch(values: pa.Array, micros_per_unit: float) -> pa.Array:
    """Instants from numbers since 1970; whole numbers stay exact."""
    whole = f"try_cast(trim(value) AS BIGINT)::HUGEINT * {int(micros_per_unit)}"
    broken = f"try_cast(round(try_cast(trim(value) AS DOUBLE) * {micros_per_unit}) AS HUGEINT)"
    micros = f"(CASE WHEN contains(value, '.') OR contains(lower(value), 'e') THEN {broken} ELSE {whole} END)"
    within = f"CASE WHEN {micros} BETWEEN 0 AND 253402300799000000 THEN make_timestamp({micros}::BIGINT) END"
    return _try(f"({within})::TIMESTAMPTZ", values)


def _try(expression: str, values: pa.Array, zone: str = "UTC") -> pa.Array:
    """The DuckDB expression over `value`, null where it does not apply, [N]."""
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = ?", [zone])
        connection.register("given", pa.table({"value": values}))
        return _whole(connection.sql(f"SELECT {expression} AS parsed FROM given").to_arrow_table()["parsed"])
