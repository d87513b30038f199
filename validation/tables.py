"""Parquet tables as gates need them: rows with an address, types per file, and rows taken out safely.

The address of a row is (place of its file in a fixed list, place in that file).
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.errors import GateError
from core.files import sync_folder
from events.lock import exclusive
from validation.suspects import literal

MISSING = "missing"
"""What `column_types` says of a column that a file does not have."""


@dataclass(frozen=True)
class Table:
    """The Parquet files of one table as they were when the gate first looked."""

    name: str
    folder: Path
    files: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]

    @staticmethod
    def at(name: str, folder: Path) -> "Table":
        """The table below `folder`; without files where there is none."""
        files = tuple(sorted(folder.glob("day=*/*.parquet")))
        return Table(name, folder, files, tuple(_stamp(file) for file in files))

    @property
    def num_rows(self) -> int:
        return sum(int(pq.read_metadata(file).num_rows) for file in self.files)

    @property
    def source_sql(self) -> str:
        """SQL of a table function that yields the rows with `file_index` and `file_row_number`."""
        paths = ", ".join(literal(str(file)) for file in self.files)
        return f"read_parquet([{paths}], hive_partitioning = false)"

    def column_types(self) -> list[dict[str, str]]:
        """Per file, the type of every column by name."""
        return [{field.name: type_name(field.type) for field in pq.read_schema(file)} for file in self.files]

    def rows_at(self, addresses: NDArray[np.int64]) -> pa.Table:
        """The rows at `addresses` [N, 2], in that order."""
        parts, order = [], []
        for file in np.unique(addresses[:, 0]):
            chosen = np.flatnonzero(addresses[:, 0] == file)
            parts.append(_read(self.files[file]).take(pa.array(addresses[chosen, 1])))
            order.append(chosen)
        if not parts:
            return _read(self.files[0]).slice(0, 0)
        return pa.concat_tables(parts, promote_options="default").take(pa.array(np.argsort(np.concatenate(order))))

    def withdraw(self, addresses: NDArray[np.int64]) -> None:
        """Takes the rows at `addresses` [N, 2] out of their files, each file replaced in one step.

        Files that appear meanwhile are left alone. Raises GateError when a file is no longer as it was checked.
        """
        with exclusive(self.folder.parent, self.folder.name):
            changed = [file for file, stamp in zip(self.files, self.stamps, strict=True) if _stamp(file) != stamp]
            if changed:
                raise GateError(f"{changed[0]} changed while it was checked; no row was taken out, run the gate again")
            for file in np.unique(addresses[:, 0]):
                rows = _read(self.files[file])
                is_kept = np.ones(rows.num_rows, dtype=bool)
                is_kept[addresses[addresses[:, 0] == file, 1]] = False
                _replace(self.files[file], rows.filter(pa.array(is_kept)))


def type_name(kind: pa.DataType) -> str:
    """The type without what only the encoding decides, so that files of other writers compare equal."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {type_name(kind.value_type)}"
    return str(kind)


def _read(file: Path) -> pa.Table:
    return pq.ParquetFile(file).read()


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file is replaced: (inode, time of change in ns); (0, 0) once it is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def _replace(file: Path, rows: pa.Table) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".writing")
    try:
        with os.fdopen(handle, "wb") as target:
            pq.write_table(rows, target, compression="zstd")
            target.flush()
            os.fsync(target.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(file.parent)
