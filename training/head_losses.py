"""The loss of the second stage: cross-entropy per head, rare positives counted more often, order within a user.

Legend: B rows, H heads.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.losses import masked_bce, within_user_ranking


class HeadLoss:
    """Weighted sum over heads.

    `weights` are scaled to sum to 1; `positive_weights` and `ranking` name the heads that they concern.
    """

    def __init__(
        self,
        heads: Sequence[str],
        weights: Mapping[str, float],
        positive_weights: Mapping[str, float],
        ranking: Mapping[str, float],
    ) -> None:
        chosen_H = torch.tensor([weights.get(head, 0.0) for head in heads])
        self._weights_H = chosen_H / chosen_H.sum()
        self.positive_weights_H = torch.tensor([positive_weights.get(head, 1.0) for head in heads])
        self._ranking = {heads.index(head): weight for head, weight in ranking.items() if head in heads}

    def start(self, labels_NH: Tensor) -> Tensor:
        """Each head's rate as the loss sees it, [H]: where a bias may start."""
        rates_H = labels_NH.nanmean(0).nan_to_num(0.5).clamp(1e-5, 1 - 1e-5)
        return torch.sigmoid(rates_H.logit() + self.positive_weights_H.log())

    @property
    def correction(self) -> Tensor:
        """What makes the trained logits those of the real rates, [H]. Source: King and Zeng, 2001."""
        return -self.positive_weights_H.log()

    def __call__(self, logits_BH: Tensor, labels_BH: Tensor, users_B: Tensor, row_weights_B: Tensor | None) -> Tensor:
        loss = masked_bce(logits_BH, labels_BH, self._weights_H, row_weights_B, self.positive_weights_H)
        for h, weight in self._ranking.items():
            loss = loss + weight * within_user_ranking(logits_BH[:, h], labels_BH[:, h], users_B)
        return loss

    def held_out(self, logits_BH: Tensor, labels_BH: Tensor, row_weights_B: Tensor | None) -> Tensor:
        """Plain cross-entropy of logits that were put right: what training stops by."""
        return masked_bce(logits_BH + self.correction, labels_BH, self._weights_H, row_weights_B)
