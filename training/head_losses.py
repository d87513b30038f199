"""The loss of the second stage: cross-entropy per head, positives of rare heads counted more often.

Legend: B rows, H heads.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.losses import masked_bce


class HeadLoss:
    """Weighted sum over heads; `weights` are scaled to sum to 1, a head without a positive weight has 1."""

    def __init__(
        self, heads: Sequence[str], weights: Mapping[str, float], positive_weights: Mapping[str, float]
    ) -> None:
        chosen_H = torch.tensor([weights.get(head, 0.0) for head in heads])
        self._weights_H = chosen_H / chosen_H.sum()
        self.positive_weights_H = torch.tensor([positive_weights.get(head, 1.0) for head in heads])

    def start(self, labels_NH: Tensor) -> Tensor:
        """Each head's rate as the loss sees it, [H]: where a bias may start."""
        rates_H = labels_NH.nanmean(0).nan_to_num(0.5).clamp(1e-5, 1 - 1e-5)
        return torch.sigmoid(rates_H.logit() + self.positive_weights_H.log())

    @property
    def correction(self) -> Tensor:
        """What makes the trained logits those of the real rates, [H]. Source: King and Zeng, 2001."""
        return -self.positive_weights_H.log()

    def __call__(self, logits_BH: Tensor, labels_BH: Tensor, row_weights_B: Tensor | None) -> Tensor:
        weights_H, positive_H = (of.to(logits_BH.device) for of in (self._weights_H, self.positive_weights_H))
        return masked_bce(logits_BH, labels_BH, weights_H, row_weights_B, positive_H)

    def held_out(self, logits_BH: Tensor, labels_BH: Tensor, row_weights_B: Tensor | None) -> Tensor:
        """Plain cross-entropy of logits that were put right: what training stops by."""
        return masked_bce(logits_BH + self.correction, labels_BH, self._weights_H, row_weights_B)
