"""The DuckDB connection of one query: its limits, its folder to spill to, and its errors as ours."""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from core.errors import ConfigError, FeatureStoreError, InputError

_UNIT_BYTES = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True)
class EngineLimits:
    """What one query may take. `memory` as DuckDB writes it, such as 3GB; `spill` is a folder of temporary files."""

    memory: str
    threads: int
    spill: Path


@contextmanager
def open_engine(limits: EngineLimits) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database that spills to its own folder below `limits.spill`, gone at the end.

    Raises ConfigError for a memory limit that DuckDB does not understand, FeatureStoreError when a query fails.
    """
    folder = limits.spill / f"asof-{uuid.uuid4().hex}"  # two processes in one folder would overwrite each other
    limits.spill.mkdir(parents=True, exist_ok=True)
    try:
        connection = duckdb.connect(
            config={"threads": limits.threads, "memory_limit": limits.memory, "temp_directory": str(folder)}
        )
    except duckdb.Error as error:
        raise ConfigError(
            f"offline_store.memory_limit {limits.memory!r} or threads {limits.threads} is not for DuckDB ({error}); "
            "expected a size such as 3GB and a number of at least 1"
        ) from error
    try:
        _set_zone(connection)
        with engine_errors(limits):
            yield connection
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def another(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the same database, for a query beside those of `connection`; temporary tables are its own."""
    with closing(connection.cursor()) as cursor:
        _set_zone(cursor)
        yield cursor


def _set_zone(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET TimeZone = 'UTC'")


@contextmanager
def engine_errors(limits: EngineLimits) -> Iterator[None]:
    """Turns errors of DuckDB and Arrow into ours."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise FeatureStoreError(
            f"the offline store needs more than its memory limit {limits.memory} or the disk at {limits.spill} "
            f"({error}); raise offline_store.memory_limit or point offline_store.spill_directory to a larger disk"
        ) from error
    except duckdb.ConversionException as error:
        raise InputError(
            f"a join key or an instant has a value of another type than its feature table ({error}); "
            "cast the column of the entity rows to the type that the feature table has"
        ) from error
    except (duckdb.Error, pa.ArrowException) as error:
        raise FeatureStoreError(
            f"the offline store's query failed: {error}; check the feature tables' files"
        ) from error


def memory_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """The connection's memory limit."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", _setting(connection, "memory_limit")).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNIT_BYTES[unit])


def num_threads(connection: duckdb.DuckDBPyConnection) -> int:
    """The threads of the connection's database."""
    return int(_setting(connection, "threads"))


def _setting(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    found = connection.sql(f"SELECT current_setting({literal(name)}) AS found").to_arrow_table()
    return str(found["found"][0].as_py())


def row_bytes(schema: pa.Schema) -> float:
    """About what a row takes in Arrow: text counts as 32 bytes and a list as 256, since only reading would tell."""
    return sum(_value_bytes(kind) for kind in schema.types) + 1.0


def _value_bytes(kind: pa.DataType) -> float:
    if pa.types.is_nested(kind):
        return 256.0
    try:
        return float(kind.bit_width) / 8
    except ValueError:  # Arrow's answer for text
        return 32.0


def columns_of(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """DuckDB's type by column of something that stands after FROM."""
    said = connection.sql(f"DESCRIBE SELECT * FROM {relation}").to_arrow_table()
    return dict(zip(said["column_name"].to_pylist(), said["column_type"].to_pylist(), strict=True))


def identifier(name: str) -> str:
    """`name` quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def fact_micros(expression: str, kind: str) -> str:
    """SQL for a fact's instant in microseconds since 1970 UTC; a fact between two microseconds is true from the later.

    `kind` is DuckDB's type of `expression`; an instant without a zone is in UTC.
    """
    if kind.endswith("_NS"):
        nanos = f"epoch_ns({expression})"
        return f"CAST(({nanos} - (({nanos} % 1000) - 1000) % 1000) // 1000 AS BIGINT)"
    return _micros(expression, kind)


def request_micros(expression: str, kind: str) -> str:
    """SQL for the instant of an entity row; one between two microseconds sees what the earlier one sees."""
    if kind.endswith("_NS"):
        nanos = f"epoch_ns({expression})"
        return f"CAST(({nanos} - (({nanos} % 1000) + 1000) % 1000) // 1000 AS BIGINT)"
    return _micros(expression, kind)


def _micros(expression: str, kind: str) -> str:
    is_instant = kind.startswith(("TIMESTAMP", "DATE"))
    return f"epoch_us({expression})" if is_instant else f"epoch_us(CAST({expression} AS TIMESTAMPTZ))"
