"""Whether a served value and its offline recomputation are the same. Pure numpy.

Legend: N rows, L entries of a list. A list counts as one value.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE = 1e-6
"""About eight units in the last place of float32: what another order of a sum may change."""

ABSOLUTE = 1e-7
"""For results near zero of sums whose terms are not, such as a cosine."""

Values = NDArray[Any]


def is_same(served: Values, offline: Values) -> NDArray[np.bool_]:
    """Where the values agree, [N]: floats up to rounding with NaN equal to NaN, everything else exactly.

    Lists must agree in every entry. Raises ValueError for arrays of different shapes.
    """
    if served.shape != offline.shape:
        raise ValueError(f"served values are {served.shape}, offline ones {offline.shape}; expected equal shapes")
    same = _floats_agree(served, offline) if served.dtype.kind == "f" else np.asarray(served == offline, dtype=np.bool_)
    return same if same.ndim == 1 else np.asarray(same.all(axis=tuple(range(1, same.ndim))))


def _floats_agree(served: Values, offline: Values) -> NDArray[np.bool_]:
    # In float64 the difference of two float32 is exact; infinities agree only with themselves.
    left, right = served.astype(np.float64), offline.astype(np.float64)
    with np.errstate(invalid="ignore"):
        close = np.abs(left - right) <= ABSOLUTE + RELATIVE * np.minimum(np.abs(left), np.abs(right))
    return (left == right) | (close & np.isfinite(left) & np.isfinite(right)) | (np.isnan(left) & np.isnan(right))


def shown(value: Any, other: Any) -> str:
    """`value` for people; of a list only the first entry that differs from `other`, with its place."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return _text(value)
    differing = np.flatnonzero(~is_same(value, np.asarray(other)))
    place = int(differing[0]) if len(differing) else 0
    return f"[{place}] {_text(value[place])}" if len(value) else "[]"


def _text(value: Any) -> str:
    plain = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(plain, float):
        return "null" if np.isnan(plain) else f"{plain:.9g}"
    return repr(plain)
