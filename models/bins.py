"""Numeric inputs in bins, so that a network can bend where a tree would split.

Each value becomes its place in the quantile bins of the training rows (1 in bins below it, the covered
share in its own, 0 above), then a few learned non-linear readings.
Legend: B rows, F numeric inputs, T bins, D readings per input.
Source: Gorishniy et al., On Embeddings for Numerical Features, NeurIPS 2022 (piecewise linear encoding).
"""

import torch
from torch import Tensor, nn

EDGE_ROWS = 20_000
"""Rows that quantiles are taken from; more would not move them."""
MIN_WIDTH = 1e-6


class NumericBins(nn.Module):
    """[B, F] to [B, F * D]; the edges are weights of the model, set once by `fit_edges`."""

    low: Tensor  # [F, T]
    per_width: Tensor  # [F, T], 1 / width of the bin

    def __init__(self, num_inputs: int, num_bins: int = 8, num_readings: int = 2) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(num_inputs, num_bins))
        self.register_buffer("per_width", torch.zeros(num_inputs, num_bins))
        self.weight_FTD = nn.Parameter(torch.randn(num_inputs, num_bins, num_readings) * num_bins**-0.5)
        self.bias_FD = nn.Parameter(torch.zeros(num_inputs, num_readings))

    @property
    def width(self) -> int:
        return self.bias_FD.numel()

    @torch.no_grad()
    def fit_edges(self, rows_BF: Tensor) -> None:
        """Takes the edges from evenly spaced training rows; a bin without width stays silent."""
        if not rows_BF.numel():
            return
        few_BF = rows_BF[:: max(1, len(rows_BF) // EDGE_ROWS)]
        edges_FT = torch.quantile(few_BF, torch.linspace(0, 1, self.low.shape[1] + 1), dim=0).T
        width_FT = edges_FT.diff(dim=1)
        self.low.copy_(edges_FT[:, :-1])
        self.per_width.copy_(torch.where(width_FT > MIN_WIDTH, 1 / width_FT.clamp(min=MIN_WIDTH), 0.0))

    def forward(self, rows_BF: Tensor) -> Tensor:
        places_BFT = (rows_BF.unsqueeze(2) - self.low).mul_(self.per_width).clamp_(0, 1)
        with torch.autocast(rows_BF.device.type, enabled=False):  # so thin a product is slower cast, and less exact
            readings_BFD = torch.einsum("bft,ftd->bfd", places_BFT, self.weight_FTD)
        return torch.relu(readings_BFD + self.bias_FD).flatten(1)
