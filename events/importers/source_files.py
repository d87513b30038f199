"""Reading CSV and Parquet files of outside origin as text, so that every bad value can be shown as it was."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pc_csv

from core.errors import InputError

FILE = "@file"
ROW = "@row"
NULLS = ["", "null", "NULL", "NaN", "nan", "\\N"]
"""Texts that mean no value. `NA` is not among them: it is a country."""

BROKEN = pa.schema([("reason", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("content", pa.string())])


@dataclass(frozen=True)
class TextRows:
    """Rows of some files as text: the wanted columns plus FILE and ROW (1 is the first after the header)."""

    rows: pa.Table
    broken: pa.Table  # lines that are no rows, columns of BROKEN


def read_text(files: Sequence[Path], required: Sequence[str], optional: Sequence[str] = ()) -> TextRows:
    """The wanted columns of the files, one after the other; an absent optional column is all null.

    Raises InputError naming the file for one that is missing, empty or unreadable, and the column that is missing.
    """
    parts = [_read_one(file, list(dict.fromkeys(required)), list(dict.fromkeys(optional))) for file in files]
    return TextRows(pa.concat_tables([p.rows for p in parts]), pa.concat_tables([p.broken for p in parts]))


def _read_one(file: Path, required: list[str], optional: list[str]) -> TextRows:
    if not file.exists():
        raise InputError(f"{file}: no such file")
    read = _read_parquet if file.suffix == ".parquet" else _read_csv
    try:
        rows, broken = read(file, required, optional)
    except (pa.ArrowInvalid, duckdb.Error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected UTF-8 CSV with a header, or Parquet") from error
    wanted = dict.fromkeys([*required, *optional])
    columns = {n: rows[n] if n in rows.column_names else pa.nulls(rows.num_rows, pa.string()) for n in wanted}
    columns[FILE] = pa.repeat(file.name, rows.num_rows)
    columns[ROW] = rows[ROW]
    return TextRows(pa.table(columns), broken)


def _present(file: Path, found: Sequence[str], required: list[str], optional: list[str]) -> list[str]:
    """The wanted columns that the file has. Raises InputError naming the first required one it lacks."""
    for name in required:
        if name not in found:
            raise InputError(f"{file}: column {name!r} is missing; found {', '.join(found)}")
    repeated = [name for name in (*required, *optional) if list(found).count(name) > 1]
    if repeated:
        raise InputError(f"{file}: column {repeated[0]!r} occurs twice in the header")
    return [name for name in dict.fromkeys([*required, *optional]) if name in found]


def _read_csv(file: Path, required: list[str], optional: list[str]) -> tuple[pa.Table, pa.Table]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text), None)
    if header is None:
        raise InputError(f"{file}: is empty; expected a header line with {', '.join(required)}")
    present = _present(file, header, required, optional)
    bad: list[tuple[int, str]] = []

    def keep_bad(row: pc_csv.InvalidRow) -> str:
        bad.append((row.number, row.text))
        return "skip"

    rows = pc_csv.read_csv(
        file,
        read_options=pc_csv.ReadOptions(use_threads=False, block_size=16 << 20),
        parse_options=pc_csv.ParseOptions(invalid_row_handler=keep_bad, newlines_in_values=True),
        convert_options=pc_csv.ConvertOptions(
            include_columns=present,
            column_types=dict.fromkeys(present, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=NULLS,
        ),
    )
    bad_rows = [number - 1 for number, _ in bad]
    broken = pa.table(
        [
            [f"line has not the header's {len(header)} values"] * len(bad),
            [file.name] * len(bad),
            bad_rows,
            [text for _, text in bad],
        ],
        schema=BROKEN,
    )
    return rows.append_column(ROW, _numbers_without(rows.num_rows, bad_rows)), broken


def _read_parquet(file: Path, required: list[str], optional: list[str]) -> tuple[pa.Table, pa.Table]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        source = connection.read_parquet(str(file))
        present = _present(file, source.columns, required, optional)
        texts = ", ".join(f'CAST("{n}" AS VARCHAR) AS "{n}"' for n in (_quoted(p) for p in present))
        rows = source.project(texts).to_arrow_table()
    return rows.append_column(ROW, _numbers_without(rows.num_rows, [])), BROKEN.empty_table()


def _quoted(name: str) -> str:
    return name.replace('"', '""')


def _numbers_without(num_rows: int, bad: list[int]) -> pa.Array:
    """Row numbers from 1 that skip the bad ones, [num_rows]."""
    taken = set(bad)
    if not taken:
        return pa.array(range(1, num_rows + 1), pa.int64())
    return pa.array([n for n in range(1, num_rows + len(taken) + 1) if n not in taken], pa.int64())
