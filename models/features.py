"""What a model reads: features by side and kind, with the statistics that turn columns into tensors.

A `Feature` names one column of `Columns` ("view__feature"). A `FeatureSpec` travels inside every
bundle, so that training and serving encode with the same constants.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from models.id_rows import Hashing, IdRows
from models.numeric import Columns as Columns
from models.numeric import Transform, is_null, require_columns, sample_rows, transformed
from models.own_rows import BUCKET_ROWS
from models.rare_ids import MOST

Side = Literal["user", "post", "cross"]
Kind = Literal["numeric", "categorical", "codes", "sequence", "embedding"]

MIN_OWN_ROWS = BUCKET_ROWS + 1

FIT_ROWS = 200_000
"""Rows, evenly spaced, that `fit_spec` reads; more would not move a mean."""

SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Feature:
    """One column as a model reads it.

    numeric      [N] float, int or bool; transformed, standardised, null becomes 0 plus a flag.
    categorical  [N] int64 or str; a row of `table` (row 0 is null).
    codes        [N, L] int64, -1 null; categories by position; all share `table`, pooled by mean.
    sequence     [N, L] int64 ids, newest first, padded -1; the first `length` are read. Pooled by
                 mean, except that sequences of one `group` are aligned by position and the second
                 stage reads them together by target attention.
    embedding    [N, dim] float; divided by its root mean square. The second stage reads those of one `group` as
                 the product of each of the user's with the post's, and not by themselves.
    """

    name: str
    side: Side
    kind: Kind
    transform: Transform = "identity"
    mean: float = 0.0
    std: float = 1.0
    has_missing_flag: bool = False
    table: str = ""
    num_rows: int = 0
    dim: int = 0
    length: int = 1
    group: str = ""
    hashing: Hashing = "plain"
    """How ids find rows of the table (`models/id_rows.py`); all readers of a table agree on this and what follows."""
    min_count: int = 1
    """Ids met less often in training are rare: they share rows."""
    source: str = ""
    """Column that the feature is made of, where it is not the one of its name."""
    level: int = 0
    """Of a semantic id (`models/semantic_ids.py`): the codes that it is made of; `source` is the content embedding."""
    num_shared: int = 1
    """Rows that ids without rows of their own share, where there are such."""

    def __post_init__(self) -> None:
        if self.side not in SIDES or self.kind not in get_args(Kind) or self.transform not in get_args(Transform):
            raise ValueError(f"feature {self.name}: unknown side, kind or transform in {self}")
        if self.is_indexed and (not self.table.isidentifier() or self.num_rows < 2 or self.dim < 1):
            raise ValueError(f"feature {self.name}: {self.kind} needs a table name, num_rows >= 2 and dim >= 1")
        if self.kind == "embedding" and self.dim < 1:
            raise ValueError(f"feature {self.name}: embedding needs its width as dim >= 1")
        if self.level < 0 or (self.level and (self.kind != "categorical" or not self.source)):
            raise ValueError(f"feature {self.name}: a semantic id is categorical and names its content as source")
        if self.length < 1:
            raise ValueError(f"feature {self.name}: length is {self.length}, expected at least 1")
        if self.hashing not in get_args(Hashing) or not 1 <= self.min_count <= MOST or self.num_shared < 1:
            raise ValueError(
                f"feature {self.name}: hashing {self.hashing!r}, min_count {self.min_count}, num_shared "
                f"{self.num_shared}; expected one of {', '.join(get_args(Hashing))}, 1 to {MOST}, at least 1"
            )
        if (self.hashing != "plain" or self.min_count > 1) and (
            self.kind not in ("categorical", "sequence") or self.num_rows < self.num_shared + MIN_OWN_ROWS
        ):
            raise ValueError(
                f"feature {self.name}: {self.hashing} with min_count {self.min_count} is for tables of ids with "
                f"{MIN_OWN_ROWS} rows or more beside the {self.num_shared} shared"
            )

    @property
    def is_indexed(self) -> bool:
        """True where the feature reads rows of an embedding table."""
        return self.kind in ("categorical", "codes", "sequence")

    @property
    def column(self) -> str:
        """The column that the feature is made of."""
        return self.source or self.name

    @property
    def num_ids(self) -> int:
        """Columns that the feature takes in the id matrix."""
        return {"categorical": 1, "codes": self.length}.get(self.kind, 0)


@dataclass(frozen=True)
class Table:
    """One embedding table and the names of the features that read it."""

    name: str
    num_rows: int
    dim: int
    hashing: Hashing
    min_count: int
    num_shared: int
    features: tuple[str, ...]

    @property
    def shape(self) -> str:
        """Rows, width and hashing, for people."""
        hashing = "" if self.hashing == "plain" and self.min_count == 1 else f" ({self.hashing}, {self.min_count})"
        return f"{self.num_rows} x {self.dim}{hashing}"

    @property
    def counts_ids(self) -> bool:
        """True where rows depend on which ids training met."""
        return self.hashing == "zero_collision" or self.min_count > 1


@dataclass(frozen=True)
class FeatureSpec:
    """The features of one model, in order, with fitted statistics."""

    features: tuple[Feature, ...]
    ids: Mapping[str, IdRows] = field(default_factory=dict, compare=False)
    """What tables that do not simply hash know of ids, by table; arrays, so kept beside the JSON."""
    codebooks: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False)
    """Codebook [L, K, D] of each column that semantic ids are made of."""

    def __post_init__(self) -> None:
        names = [f.name for f in self.features]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ValueError(f"features named twice: {', '.join(repeated)}")
        _ = self.tables  # two features that disagree about their table fail here

    def side(self, side: Side, kind: Kind | None = None) -> tuple[Feature, ...]:
        """Features of one side, optionally of one kind; numerics come grouped by transform."""
        key = f"side {side} {kind}"  # every forward pass asks
        if key not in self.memo:
            found = [f for f in self.features if f.side == side and kind in (None, f.kind)]
            if kind == "numeric":
                found.sort(key=lambda f: get_args(Transform).index(f.transform))
            self.memo[key] = tuple(found)
        chosen: tuple[Feature, ...] = self.memo[key]
        return chosen

    def columns(self, side: Side) -> tuple[str, ...]:
        """Names of the columns that one side reads, each once."""
        return tuple(dict.fromkeys(f.column for f in self.side(side)))

    def numeric_width(self, side: Side) -> int:
        """Numeric inputs of one side, missing flags included."""
        return sum(1 + f.has_missing_flag for f in self.side(side, "numeric"))

    def embedding_width(self, side: Side) -> int:
        """Summed width of the embeddings of one side."""
        return sum(f.dim for f in self.side(side, "embedding"))

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Room for what is worked out from the spec once, such as the encoder's plan per side."""
        return {}

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Embedding tables in order of first use. Raises ValueError where two features disagree."""
        tables: dict[str, Table] = {}
        for f in self.features:
            if not f.is_indexed:
                continue
            mine = Table(f.table, f.num_rows, f.dim, f.hashing, f.min_count, f.num_shared, ())
            known = tables.get(f.table, mine)
            if replace(known, features=()) != mine:
                raise ValueError(
                    f"feature {f.name} wants table {f.table} as {mine.shape}, {known.features[0]} as {known.shape}; "
                    "they share it"
                )
            tables[f.table] = replace(mine, features=(*known.features, f.name))
        return tuple(tables.values())

    def cut(self, length: int) -> "FeatureSpec":
        """The spec with sequences read no further than `length` entries."""
        return FeatureSpec(
            tuple(replace(f, length=min(f.length, length)) if f.kind == "sequence" else f for f in self.features),
            self.ids,
            self.codebooks,
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values; a field at its default is left out."""
        defaults = {f.name: f.default for f in fields(Feature)}
        return [{k: v for k, v in asdict(f).items() if v != defaults[k]} for f in self.features]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What JSON is too small for, by name."""
        ids = {f"ids/{table}/{name}": a for table, known in self.ids.items() for name, a in known.arrays().items()}
        return ids | {f"codebooks/{column}": codebook for column, codebook in self.codebooks.items()}

    @staticmethod
    def from_json(
        rows: Iterable[Mapping[str, Any]] | str, arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> "FeatureSpec":
        """The spec that `to_json` and `arrays` wrote. Raises ValueError for an unknown field."""
        decoded = json.loads(rows) if isinstance(rows, str) else rows
        ids: dict[str, dict[str, NDArray[Any]]] = {}
        codebooks = {}
        for path, values in (arrays or {}).items():
            kind, _, name = path.partition("/")
            if kind == "codebooks":
                codebooks[name] = values
            else:
                table, _, what = name.partition("/")
                ids.setdefault(table, {})[what] = values
        known = {table: IdRows.from_arrays(of) for table, of in ids.items()}
        try:
            return FeatureSpec(tuple(Feature(**row) for row in decoded), known, codebooks)
        except TypeError as error:
            raise ValueError(f"not a feature spec: {error}") from error


def fit_spec(features: Sequence[Feature], columns: Columns) -> FeatureSpec:
    """The spec with mean, std and missing flags measured on training rows.

    Statistics are taken after the transform and ignore nulls. A column that never varies keeps std 1.
    Of the features that are null on the very same rows only the first keeps a flag, and codes are cut
    behind the last position that is ever used. Raises ValueError for a missing column.
    """
    require_columns([f.column for f in features], columns)
    fitted, patterns = [], set[tuple[str, bytes]]()
    for f in features:
        f = _fit_feature(f, sample_rows(columns[f.column], FIT_ROWS))
        if f.has_missing_flag:
            # Features of one view are null together; one flag says it for all of them.
            pattern = (f.side, np.packbits(is_null(sample_rows(columns[f.column], FIT_ROWS))).tobytes())
            f = replace(f, has_missing_flag=pattern not in patterns)
            patterns.add(pattern)
        fitted.append(f)
    return FeatureSpec(tuple(fitted))


def _fit_feature(f: Feature, values: NDArray[Any]) -> Feature:
    if f.kind == "numeric":
        exact = transformed(values, f.transform).astype(np.float64)
        present = exact[np.isfinite(exact)]
        mean, std = (float(present.mean()), float(present.std())) if present.size else (0.0, 1.0)
        std = std if std > 1e-6 * max(1.0, abs(mean)) else 1.0
        return replace(f, mean=mean, std=std, has_missing_flag=present.size < exact.size)
    if f.kind == "embedding":
        squares = np.square(np.nan_to_num(values.astype(np.float64)))
        return replace(f, std=float(np.sqrt(squares.mean())) if squares.any() else 1.0)
    if f.kind == "codes" and values.ndim == 2:
        used = np.flatnonzero((values[:, : f.length] >= 0).any(axis=0))
        return replace(f, length=int(used[-1]) + 1 if used.size else 1)
    return f
