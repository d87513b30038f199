"""Two rows per id: ids that meet in one row hardly meet in the other.

The encoder gives an entry one code; the tables make the rows of it, so that one entry stays one entry everywhere else.
Legend: L entries, K rows per code. Source: Tito Svenstrup et al., Hash embeddings, NeurIPS 2017.
"""

import torch
from torch import Tensor

NUM_CODES = 2**31 - 1
"""A prime, and the most an int32 holds; codes are below it."""
HASHES = 2
"""Rows per code."""
_FACTORS = (1_103_515_245, 1_299_709_007)
_OFFSETS = (12_345, 715_827_883)


def rows_of_hashes(codes: Tensor, num_rows: int, num_shared: int) -> Tensor:
    """[..., L] codes to rows [..., L * K], neighbours of one code together; -1 stays -1.

    Codes up to `num_shared` (0 is null) are rows themselves; others spread over the rows behind those.
    """
    first = num_shared + 1
    wide = codes.long()
    rows = [(wide * a + b) % NUM_CODES % (num_rows - first) + first for a, b in zip(_FACTORS, _OFFSETS, strict=True)]
    spread = torch.stack([torch.where(wide < first, wide, row) for row in rows], dim=-1)
    return spread.flatten(-2)
