"""Columns to tensors: one vectorised encoder for training and serving.

Legend: N rows, F numeric inputs, C id columns, L entries of a sequence, E summed embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.features import Columns, Feature, FeatureSpec, Side
from models.hashing import rows_of_codes, rows_of_words
from models.id_rows import IdRows, rows_of_table
from models.numeric import read_numeric, require_columns, transform_block
from models.semantic_ids import codes_of, semantic_ids

CHUNK_ROWS = 4096
"""Rows encoded at a time; a block of some hundred features then stays in the processor's cache."""
_SEQUENCE = "sequence "
CLIP = 8.0
"""Standardised values are cut here, so that one outlier cannot swamp a row."""


@dataclass(frozen=True)
class EncodedSide:
    """One side of N examples: numeric [N, F], ids [N, C], sequences [N, L] each, embeddings [N, E].

    `ids` are rows of embedding tables, categorical features first, then codes, in order of the
    spec. `sequences` are rows too. Codes and sequences have -1 where nothing is; that is their mask.
    """

    numeric: Tensor
    ids: Tensor
    sequences: Mapping[str, Tensor]
    embeddings: Tensor

    @property
    def num_rows(self) -> int:
        return self.numeric.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; see `of_tensors`."""
        named = {"numeric": self.numeric, "ids": self.ids, "embeddings": self.embeddings}
        return named | {f"{_SEQUENCE}{name}": rows for name, rows in self.sequences.items()}

    @staticmethod
    def of_tensors(named: Mapping[str, Tensor]) -> "EncodedSide":
        """The side whose `tensors` these are."""
        sequences = {n.removeprefix(_SEQUENCE): rows for n, rows in named.items() if n.startswith(_SEQUENCE)}
        return EncodedSide(named["numeric"], named["ids"], sequences, named["embeddings"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The same as arrays of N rows, to be kept row by row; see `of_arrays`."""
        return {name: tensor.numpy() for name, tensor in self.tensors().items()}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> "EncodedSide":
        """The side whose `arrays` these are; others among them are ignored."""
        known = {n: a for n, a in arrays.items() if n in ("numeric", "ids", "embeddings") or n.startswith(_SEQUENCE)}
        return EncodedSide.of_tensors({name: torch.from_numpy(array) for name, array in known.items()})

    def overwrite(self, rows: Tensor, other: "EncodedSide") -> None:
        """Puts the rows of `other` in the place of `rows`."""
        pairs = [(self.numeric, other.numeric), (self.ids, other.ids), (self.embeddings, other.embeddings)]
        pairs += [(sequence, other.sequences[name]) for name, sequence in self.sequences.items()]
        for mine, theirs in pairs:
            mine[rows] = theirs

    def take(self, rows: Tensor) -> "EncodedSide":
        """The given rows, in the order given."""
        return EncodedSide(
            self.numeric.index_select(0, rows),
            self.ids.index_select(0, rows),
            {name: s.index_select(0, rows) for name, s in self.sequences.items()},
            self.embeddings.index_select(0, rows),
        )


@dataclass(frozen=True)
class _Plan:
    """What one side of a spec asks of the encoder, worked out once."""

    names: tuple[str, ...]
    numerics: tuple[Feature, ...]
    logs: slice
    logits: slice
    flags: NDArray[np.int64]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    indexed: tuple[Feature, ...]
    contents: tuple[str, ...]
    sequences: tuple[Feature, ...]
    embeddings: tuple[Feature, ...]
    num_ids: int


def _plan(spec: FeatureSpec, side: Side) -> _Plan:
    plan: _Plan | None = spec.memo.get(f"plan {side}")
    if plan is None:
        plan = spec.memo[f"plan {side}"] = _make_plan(spec, side)
    return plan


def _make_plan(spec: FeatureSpec, side: Side) -> _Plan:
    numerics = spec.side(side, "numeric")
    transforms = [f.transform for f in numerics]
    num_identity, num_logs = transforms.count("identity"), transforms.count("log1p")
    indexed = spec.side(side, "categorical") + spec.side(side, "codes")
    return _Plan(
        names=spec.columns(side),
        numerics=numerics,
        logs=slice(num_identity, num_identity + num_logs),
        logits=slice(num_identity + num_logs, len(numerics)),
        flags=np.array([i for i, f in enumerate(numerics) if f.has_missing_flag], dtype=np.int64),
        mean=np.array([[f.mean] for f in numerics], dtype=np.float32).reshape(-1, 1),
        scale=np.array([[1.0 / f.std] for f in numerics], dtype=np.float32).reshape(-1, 1),
        indexed=indexed,
        contents=tuple(dict.fromkeys(f.column for f in indexed if f.level)),
        sequences=spec.side(side, "sequence"),
        embeddings=spec.side(side, "embedding"),
        num_ids=sum(f.num_ids for f in indexed),
    )


def _encode_numeric(plan: _Plan, columns: Columns, lo: int, hi: int, out_NF: NDArray[np.float32]) -> None:
    num = len(plan.numerics)
    block_FN = np.empty((num + len(plan.flags), hi - lo), dtype=np.float32)
    values_FN = block_FN[:num]
    for row, feature in zip(values_FN, plan.numerics, strict=True):
        read_numeric(columns[feature.column][lo:hi], row)
    transform_block(values_FN, plan.logs, plan.logits)
    absent_FN = ~np.isfinite(values_FN)
    values_FN -= plan.mean
    values_FN *= plan.scale
    np.clip(values_FN, -CLIP, CLIP, out=values_FN)
    values_FN[absent_FN] = 0.0
    block_FN[num:] = absent_FN[plan.flags]
    out_NF[lo:hi] = block_FN.T


def _fit_length(ids_NL: NDArray[Any], length: int, name: str) -> NDArray[np.int64]:
    if ids_NL.ndim != 2:
        raise ValueError(f"column {name} has shape {ids_NL.shape}, expected [N, L]")
    cut = ids_NL[:, :length].astype(np.int64)
    return cut if cut.shape[1] == length else np.pad(cut, ((0, 0), (0, length - cut.shape[1])), constant_values=-1)


def _codebook(spec: FeatureSpec, column: str) -> NDArray[np.float32]:
    if column not in spec.codebooks:
        raise ValueError(f"the spec makes semantic ids of {column} and has no codebook for it (`fit_ids`)")
    return spec.codebooks[column]


def _rows_of_ids(feature: Feature, ids: NDArray[np.int64], known: IdRows | None) -> NDArray[np.int64]:
    f = feature
    return rows_of_table(ids, f.table, f.num_rows, f.hashing, f.min_count, f.num_shared, known)


def _encode_ids(feature: Feature, values: NDArray[Any], known: IdRows | None) -> NDArray[np.int64]:
    if feature.kind == "codes":
        return rows_of_codes(_fit_length(values, feature.length, feature.name), feature.table, feature.num_rows)
    if values.dtype.kind in "iub":
        return _rows_of_ids(feature, values.astype(np.int64), known)[:, None]
    if values.dtype.kind in "OUT":
        return rows_of_words(values, feature.table, feature.num_rows)[:, None]
    raise ValueError(f"column {feature.name} has dtype {values.dtype}, expected integers or strings")


def _encode_sequence(feature: Feature, values: NDArray[Any], known: IdRows | None) -> NDArray[np.int64]:
    ids_NL = _fit_length(values, feature.length, feature.name)
    rows_NL = _rows_of_ids(feature, ids_NL, known)
    rows_NL[ids_NL < 0] = -1
    return rows_NL


def _encode_embedding(feature: Feature, values: NDArray[Any]) -> NDArray[np.float32]:
    if values.ndim != 2 or values.shape[1] != feature.dim:
        raise ValueError(f"column {feature.name} has shape {values.shape}, expected [N, {feature.dim}]")
    floats: NDArray[np.float32] = values.astype(np.float32, copy=False)
    finite: NDArray[np.float32] = np.where(np.isfinite(floats), floats, 0.0).astype(np.float32, copy=False)
    scaled: NDArray[np.float32] = finite / np.float32(feature.std)
    return scaled


def _num_rows(names: Sequence[str], columns: Columns) -> int:
    found = {len(columns[name]) for name in names}
    if len(found) > 1:
        raise ValueError(f"columns differ in rows: { {name: len(columns[name]) for name in names} }")
    return next(iter(found), 1)


def encode(spec: FeatureSpec, side: Side, columns: Columns) -> EncodedSide:
    """One side of the spec as contiguous tensors (float32 and int32 rows), N rows as the columns have.

    Columns that the spec does not name are ignored. A side without features has one row that
    broadcasts. Raises ValueError for a missing column or one of the wrong shape or type.
    """
    plan = _plan(spec, side)
    require_columns(plan.names, columns)
    n = _num_rows(plan.names, columns)
    numeric_NF = np.empty((n, len(plan.numerics) + len(plan.flags)), dtype=np.float32)
    ids_NC = np.empty((n, plan.num_ids), dtype=np.int32)
    sequences = {f.name: np.empty((n, f.length), dtype=np.int32) for f in plan.sequences}
    embeddings_NE = np.empty((n, sum(f.dim for f in plan.embeddings)), dtype=np.float32)
    for lo in range(0, n, CHUNK_ROWS):
        hi = min(lo + CHUNK_ROWS, n)
        _encode_numeric(plan, columns, lo, hi, numeric_NF)
        at = 0
        codes = {c: codes_of(columns[c][lo:hi], _codebook(spec, c)) for c in plan.contents}
        for f in plan.indexed:
            values = columns[f.column][lo:hi]
            if f.level:
                values = semantic_ids(codes[f.column], f.level, spec.codebooks[f.column].shape[1])
            ids_NC[lo:hi, at : at + f.num_ids] = _encode_ids(f, values, spec.ids.get(f.table))
            at += f.num_ids
        for f in plan.sequences:
            sequences[f.name][lo:hi] = _encode_sequence(f, columns[f.column][lo:hi], spec.ids.get(f.table))
        at = 0
        for f in plan.embeddings:
            embeddings_NE[lo:hi, at : at + f.dim] = _encode_embedding(f, columns[f.column][lo:hi])
            at += f.dim
    return EncodedSide(
        torch.from_numpy(numeric_NF),
        torch.from_numpy(ids_NC),
        {name: torch.from_numpy(rows) for name, rows in sequences.items()},
        torch.from_numpy(embeddings_NE),
    )


def blank_side(spec: FeatureSpec, side: Side, num_rows: int = 1) -> EncodedSide:
    """Examples of nothing but zeros, every list as long as it may be, in the shapes that `encode` gives."""
    num_ids = sum(f.num_ids for f in spec.side(side))
    return EncodedSide(
        numeric=torch.zeros(num_rows, spec.numeric_width(side)),
        ids=torch.zeros(num_rows, num_ids, dtype=torch.int32),
        sequences={f.name: torch.zeros(num_rows, f.length, dtype=torch.int32) for f in spec.side(side, "sequence")},
        embeddings=torch.zeros(num_rows, spec.embedding_width(side)),
    )
