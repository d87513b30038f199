"""How far each feature's values moved since the last accepted build of the feature tables.

Compared is what serving would read: of every entity with a row in the last day of the build, its newest row. So an
entity counts once however often it changed, and a longer log does not look like a change. A number falls into the
deciles of the accepted build, a text or an id into its most frequent values; null is a bin of its own. An instant
enters as its age at the build's end, which a later build does not move; a list as its number of elements.

PSI = sum over bins of (now - before) * ln(now / before), shares floored at FLOOR.
Source: Yurdakul, Statistical properties of population stability index, 2018, also for what chance alone gives:
about (bins - 1) * (1 / rows before + 1 / rows now).

Drift is reported and stops nothing: features may move because the world does.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.files import write_atomically
from feature_repo.catalog import FeatureField, View
from validation.suspects import literal
from validation.tables import Table

Level = Literal["stable", "watch", "drifted", "few rows"]

WINDOW = timedelta(days=1)
HOUR = timedelta(hours=1)
MOST_ROWS = 200_000
"""Entities per view; of more, those whose id hashes low, the same ones in every build."""

NUM_BINS = 10
FLOOR = 1e-4
WATCH, DRIFTED = 0.10, 0.25
NAMELESS = ("post_key",)
"""Features that only name the row's own entity: new entities have new names, which says nothing."""

MOST_NOISE = 0.05
"""PSI that chance alone would give, above which a comparison says nothing: about 400 rows for ten bins."""


@dataclass(frozen=True)
class Profile:
    """Where one feature's values lie: `shares` of the bins by edges or values, then of other texts, then of null."""

    edges: tuple[float, ...]
    values: tuple[str, ...]
    shares: tuple[float, ...]
    num_rows: int


@dataclass(frozen=True)
class FeatureDrift:
    """One feature against the accepted build; `noise` is the PSI that chance alone would give."""

    feature: str
    psi: float
    noise: float
    num_before: int
    num_now: int

    @property
    def level(self) -> Level:
        if self.noise > MOST_NOISE:
            return "few rows"
        return "drifted" if self.psi > DRIFTED else "watch" if self.psi >= WATCH else "stable"


@dataclass(frozen=True)
class DriftReport:
    """A build up to `until` against the accepted one up to `accepted_until` (None at first), most moved first."""

    until: datetime
    accepted_until: datetime | None
    features: tuple[FeatureDrift, ...]

    def of_level(self, level: Level) -> list[FeatureDrift]:
        return [feature for feature in self.features if feature.level == level]

    def to_json(self) -> dict[str, Any]:
        return {
            "until": _text(self.until),
            "accepted_until": _text(self.accepted_until) if self.accepted_until else None,
            "levels": {"watch": WATCH, "drifted": DRIFTED, "most_noise": MOST_NOISE},
            "features": [asdict(feature) | {"level": feature.level} for feature in self.features],
        }

    def summary(self) -> dict[str, Any]:
        """The few lines of it that the gate's last word carries."""
        return {
            "accepted_until": _text(self.accepted_until) if self.accepted_until else None,
            "num_features": len(self.features),
            "drifted": [feature.feature for feature in self.of_level("drifted")],
            "watch": [feature.feature for feature in self.of_level("watch")],
        }


def view_profiles(
    connection: duckdb.DuckDBPyConnection,
    view: View,
    table: Table,
    until: datetime,
    accepted: Mapping[str, Profile],
) -> tuple[dict[str, Profile], dict[str, Profile]]:
    """Profiles of the view's features by full name, in bins of their own; and again in the bins of `accepted`."""
    rows = _newest_rows(connection, view, table, until)
    fresh: dict[str, Profile] = {}
    comparable: dict[str, Profile] = {}
    for field in view.fields:
        if field.name in NAMELESS:
            continue
        name = f"{view.name}__{field.name}"
        column = _compared(field, rows[field.name], until)
        fresh[name] = profile(column)
        if name in accepted:
            comparable[name] = profile(column, accepted[name])
    return fresh, comparable


def profile(column: pa.ChunkedArray, bins_of: Profile | None = None) -> Profile:
    """Shares of the column's values in its own deciles or most frequent texts, or in the bins of `bins_of`."""
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type):
        return _of_texts(column.cast(pa.string()), bins_of.values if bins_of else None)
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return _of_numbers(np.asarray(numbers, dtype=np.float64), bins_of.edges if bins_of else None)


def psi(before: Profile, now: Profile) -> float:
    """Population stability index of two profiles with the same bins, 0 where they are equal."""
    p, q = np.maximum(before.shares, FLOOR), np.maximum(now.shares, FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def compare(accepted: Mapping[str, Profile], now: Mapping[str, Profile]) -> list[FeatureDrift]:
    """Every feature that both have, most moved first; features without rows on a side have nothing to compare."""
    found = []
    for name, profile_now in now.items():
        before = accepted[name]
        if before.num_rows and profile_now.num_rows:
            noise = (len(before.shares) - 1) * (1 / before.num_rows + 1 / profile_now.num_rows)
            found.append(FeatureDrift(name, psi(before, profile_now), noise, before.num_rows, profile_now.num_rows))
    return sorted(found, key=lambda feature: (-feature.psi, feature.feature))


def accepted_path(docs: Path) -> Path:
    """Where the last accepted build's profiles are kept, beside the gates' results."""
    return docs / "drift_accepted.json"


def read_accepted(docs: Path) -> tuple[datetime | None, dict[str, Profile]]:
    """End and profiles of the last accepted build; nothing before the first, and where the file is damaged."""
    try:
        found = json.loads(accepted_path(docs).read_text())
        profiles = {
            name: Profile(tuple(p["edges"]), tuple(p["values"]), tuple(p["shares"]), int(p["num_rows"]))
            for name, p in found["features"].items()
        }
        return datetime.fromisoformat(found["until"]), profiles
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}


def accept(docs: Path, until: datetime, profiles: Mapping[str, Profile]) -> None:
    """Makes this build the one that the next is compared with."""
    features = {name: asdict(found) for name, found in profiles.items()}
    write_atomically(accepted_path(docs), json.dumps({"until": _text(until), "features": features}, indent=1))


def _newest_rows(connection: duckdb.DuckDBPyConnection, view: View, table: Table, until: datetime) -> pa.Table:
    key, columns = view.join_key, ", ".join(field.name for field in view.fields)
    # A row stands at the end of its hour, so the newest may lie after the end of the data.
    span = f"event_at > {literal(until - WINDOW)} AND event_at <= {literal(until + HOUR)}"
    recent = f"FROM {table.source_sql} WHERE {span}"
    num_entities = connection.execute(f"SELECT count(DISTINCT {key}) {recent}").fetchall()[0][0]
    every = max(1, -(-num_entities // MOST_ROWS))
    return connection.sql(f"""
        SELECT {columns} {recent} AND hash({key}) % {every} = 0
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_at DESC, known_at DESC) = 1
    """).to_arrow_table()


def _compared(field: FeatureField, column: pa.ChunkedArray, until: datetime) -> pa.ChunkedArray:
    if field.length:
        return pc.list_value_length(column)
    if field.dtype == "int":
        is_instant = field.name.endswith("_at")
        return pc.subtract(int(until.timestamp()), column) if is_instant else column.cast(pa.string())
    return column


def _of_numbers(numbers: NDArray[np.float64], edges: tuple[float, ...] | None) -> Profile:
    is_null = np.isnan(numbers)
    known = numbers[~is_null]
    if edges is None:
        # Edges that are values themselves: a share of equal values never falls between two bins.
        edges = tuple(float(edge) for edge in np.unique(_deciles(known)))
    counts = np.bincount(np.searchsorted(np.asarray(edges), known, side="left"), minlength=len(edges) + 1)
    return Profile(edges, (), _shares([*counts.tolist(), int(is_null.sum())]), len(numbers))


def _deciles(known: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    found: NDArray[np.float64] = np.quantile(known, inner, method="lower") if len(known) else known
    return found


def _of_texts(texts: pa.ChunkedArray, values: tuple[str, ...] | None) -> Profile:
    counted = {entry["values"]: entry["counts"] for entry in pc.value_counts(texts).to_pylist()}
    num_null = counted.pop(None, 0)
    if values is None:
        values = tuple(sorted(counted, key=lambda text: (-counted[text], text))[:NUM_BINS])
    counts = [counted.pop(value, 0) for value in values]
    return Profile((), values, _shares([*counts, sum(counted.values()), num_null]), len(texts))


def _shares(counts: list[int]) -> tuple[float, ...]:
    total = max(sum(counts), 1)
    return tuple(count / total for count in counts)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
