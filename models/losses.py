"""Losses with masks: what was not observed teaches nothing.

Legend: B rows, H heads, P positives, N posts of a batch, R requests, C candidates per request, Q users, D dimensions,
K hard negatives per positive.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(
    logits_BH: Tensor,
    labels_BH: Tensor,
    head_weights_H: Tensor | None = None,
    row_weights_B: Tensor | None = None,
    positive_weights_H: Tensor | None = None,
) -> Tensor:
    """Weighted sum over heads of each head's mean binary cross-entropy over its observed rows.

    A NaN label is unobserved. A head without observed rows adds 0. Weights of heads default to 1 / H; those of rows
    are [B], or [B, H] where they differ by head. Where a positive counts w times, the logits that minimise the loss
    are too high by log w.
    """
    is_observed_BH = ~labels_BH.isnan()
    loss_BH = F.binary_cross_entropy_with_logits(
        logits_BH, labels_BH.nan_to_num(0.0), reduction="none", pos_weight=positive_weights_H
    )
    weight_BH = is_observed_BH.to(logits_BH.dtype)
    if row_weights_B is not None:
        weight_BH = weight_BH * (row_weights_B[:, None] if row_weights_B.ndim == 1 else row_weights_B)
    loss_H = (loss_BH * weight_BH).sum(0) / weight_BH.sum(0).clamp(min=1e-12)
    return loss_H.mean() if head_weights_H is None else (loss_H * head_weights_H).sum()


def sampled_softmax(
    users_PD: Tensor,
    posts_ND: Tensor,
    targets_P: Tensor,
    log_q_N: Tensor,
    post_ids_N: Tensor,
    weights_P: Tensor | None = None,
    hard_PK: Tensor | None = None,
) -> Tensor:
    """Weighted mean of -log softmax of each user's target among the posts of the batch.

    `log_q_N` is the log of each post's chance to be in a batch; subtracting it undoes the
    over-representation of popular posts. Another row that holds the target's post is an accidental
    hit and is masked with -inf. `hard_PK` are corrected logits of posts that stand against one user
    alone, -inf for none.
    Source: Yi et al., RecSys 2019; Bengio and Senecal, 2008.
    """
    logits_PN = users_PD @ posts_ND.T - log_q_N
    is_hit_PN = post_ids_N[targets_P][:, None] == post_ids_N[None, :]
    is_hit_PN.scatter_(1, targets_P[:, None], False)
    logits_PN = logits_PN.masked_fill(is_hit_PN, float("-inf"))
    logits_PM = logits_PN if hard_PK is None else torch.cat([logits_PN, hard_PK], dim=1)
    loss_P = F.cross_entropy(logits_PM, targets_P, reduction="none")
    if weights_P is None:
        return loss_P.mean()
    return (loss_P * weights_P).sum() / weights_P.sum().clamp(min=1e-12)


def full_softmax(
    users_QD: Tensor,
    posts_ND: Tensor,
    bias_N: Tensor,
    user_of_P: Tensor,
    post_of_P: Tensor,
    weights_P: Tensor | None = None,
) -> Tensor:
    """Weighted mean over positives of -log softmax of the positive's post among all N posts.

    A score is an inner product plus the post's bias; a user's N scores are shared by their positives. They are
    computed in bfloat16 where the processor multiplies such numbers.
    """
    place = users_QD.device.type
    is_low = torch.cuda.is_bf16_supported() if place == "cuda" else torch.cpu._is_avx512_bf16_supported()
    with torch.autocast(place, dtype=torch.bfloat16, enabled=is_low):
        scores_QN = users_QD @ posts_ND.T
    log_total_Q = (scores_QN.float() + bias_N).logsumexp(1)
    score_P = (users_QD[user_of_P] * posts_ND[post_of_P]).sum(1) + bias_N[post_of_P]
    loss_P = log_total_Q[user_of_P] - score_P
    return loss_P.mean() if weights_P is None else (loss_P * weights_P).sum() / weights_P.sum().clamp(min=1e-12)


def listwise_distillation(student_RC: Tensor, teacher_RC: Tensor, mask_RC: Tensor, temperature: float) -> Tensor:
    """Mean over requests of the cross-entropy from the teacher's softmax to the student's.

    Teacher scores are standardised within each request first, since a value model's scale says nothing
    about how sure it is; `mask_RC` is true for real candidates. Source: Cao et al., ListNet, ICML 2007.
    """
    count_R1 = mask_RC.sum(1, keepdim=True).clamp(min=1)
    teacher_RC = teacher_RC.masked_fill(~mask_RC, 0.0)
    centred_RC = (teacher_RC - teacher_RC.sum(1, keepdim=True) / count_R1).masked_fill(~mask_RC, 0.0)
    std_R1 = (centred_RC.square().sum(1, keepdim=True) / count_R1).sqrt().clamp(min=1e-12)
    target_RC = (centred_RC / std_R1 / temperature).masked_fill(~mask_RC, float("-inf")).softmax(1)
    log_student_RC = student_RC.masked_fill(~mask_RC, float("-inf")).log_softmax(1).masked_fill(~mask_RC, 0.0)
    return -(target_RC * log_student_RC).sum(1).mean()


def top_set_softmax(student_RC: Tensor, is_top_RC: Tensor, mask_RC: Tensor) -> Tensor:
    """Mean over requests of the mean, over the top set, of -log softmax of one of it among all that are not in it.

    It asks only that the set stands above the rest: unlike a softmax over the teacher's scores it spends nothing on
    the order within, and the rest's best weigh most, so what decides is the edge of the cut. `is_top_RC` lies within
    `mask_RC`, true for real candidates; a request without a top set adds 0.
    """
    rest_R1 = student_RC.masked_fill(is_top_RC | ~mask_RC, float("-inf")).logsumexp(1, keepdim=True)
    loss_RC = F.softplus(rest_R1 - student_RC).masked_fill(~is_top_RC, 0.0)
    return (loss_RC.sum(1) / is_top_RC.sum(1).clamp(min=1)).mean()
