"""Trains the first stage on candidates that the second stage ranked: PSelect, and its scores as soft targets.

Legend: R requests of a batch, C candidates of the longest, N candidates in all, U different posts, D vector entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.embeddings import start_tables
from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from models.first_stage import FirstStageConfig, build_first_stage
from models.losses import listwise_distillation, masked_bce, top_set_softmax
from models.metrics import auc_by_group, normalised_entropy
from models.numeric import require_columns
from models.towers import TowerConfig, TwoTower
from training.checkpoints import Checkpoints
from training.device import CPU, on_device, seeded
from training.examples import CANDIDATE_RANK, CANDIDATE_SCORE, Examples
from training.loop import FittedModel, LoopConfig, Progress, run_training

HEAD = "selected"


@dataclass(frozen=True)
class FirstStageRun:
    """Everything that decides one training of the first stage."""

    network: FirstStageConfig = field(default_factory=lambda: FirstStageConfig(TowerConfig(hidden=(128, 64))))
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            batch_size=8192,
            max_epochs=15,
            learning_rate=3e-3,
            table_learning_rate=0.02,
            validations_per_epoch=1,
            patience=5,
        )
    )
    """`batch_size` counts candidates; whole requests are batched."""
    pointwise_weight: float = 1.0
    listwise_weight: float = 1.0
    top_weight: float = 1.0
    """Of the selected against all others (`top_set_softmax`)."""
    teacher_temperature: float = 0.7
    """Of the softmax over standardised second-stage scores; lower looks only at the top."""


@dataclass(frozen=True)
class _Requests:
    """Candidates grouped by request: the user once per request, a post once per serve time."""

    user: EncodedSide
    post: EncodedSide
    post_of: Tensor
    """[N] row of `post` of each candidate."""
    places: Tensor
    """[R, C] candidate, -1 where a request has fewer."""
    selected: Tensor
    scores: Tensor

    @property
    def num_requests(self) -> int:
        return len(self.places)


def select_labels(ranks: NDArray[np.float32], num_candidates: NDArray[np.int64], top_k: int) -> NDArray[np.float32]:
    """PSelect [N]: rank below `top_k`, or below half of the request's candidates if that is fewer."""
    limit = np.minimum(top_k, np.maximum(1, num_candidates // 2))
    return (ranks < limit).astype(np.float32)


def _grouped(spec: FeatureSpec, examples: Examples, top_k: int) -> _Requests:
    require_columns((CANDIDATE_RANK, CANDIDATE_SCORE), examples.columns)
    order = np.argsort(examples.request_ids, kind="stable")
    _, starts, counts = np.unique(examples.request_ids[order], return_index=True, return_counts=True)
    width = int(counts.max()) if len(counts) else 0
    place = np.arange(width)
    places_RC = np.where(place < counts[:, None], starts[:, None] + place, -1)
    first = order[starts]
    users, user_of = examples.users()
    # Candidates stay as they come; `places` points through the order that groups them.
    grouped_RC = np.where(places_RC >= 0, order[np.maximum(places_RC, 0)], -1)
    num_candidates = np.empty(examples.num_rows, dtype=np.int64)
    num_candidates[order] = np.repeat(counts, counts)
    ranks = np.asarray(examples.columns[CANDIDATE_RANK], dtype=np.float32)
    # A post's features depend on it and the serve time alone, and most posts are candidates of many requests.
    keys = np.rec.fromarrays([examples.served_at, examples.post_ids])
    _, post_rows, post_of = np.unique(keys, return_index=True, return_inverse=True)
    return _Requests(
        encode(spec, "user", users).take(torch.from_numpy(user_of[first])),
        encode(spec, "post", {name: examples.columns[name][post_rows] for name in spec.columns("post")}),
        torch.from_numpy(post_of),
        torch.from_numpy(grouped_RC),
        torch.from_numpy(select_labels(ranks, num_candidates, top_k)),
        torch.from_numpy(np.array(examples.columns[CANDIDATE_SCORE], dtype=np.float32)),
    )


def _scores(module: TwoTower, data: _Requests, requests: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [R, C] with zeros at padding, user bias [R], mask [R, C], rows [N] of the real candidates."""
    places_RC = data.places[requests]
    places_RC = places_RC[:, : int((places_RC >= 0).sum(1).max())]
    mask_RC = places_RC >= 0
    rows_N = places_RC[mask_RC]
    users_RD, bias_R = module.user_parts(data.user.take(requests))
    posts, post_N = torch.unique(data.post_of[rows_N], return_inverse=True)
    posts_UD = module.post_vectors(data.post.take(posts))
    request_N = mask_RC.nonzero()[:, 0]
    score_N = (users_RD @ posts_UD.T).float()[request_N, post_N]
    scores_RC = score_N.new_zeros(mask_RC.shape).masked_scatter(mask_RC, score_N)
    return scores_RC, bias_R, mask_RC, rows_N


def _loss(module: TwoTower, data: _Requests, requests: Tensor, config: FirstStageRun) -> Tensor:
    scores_RC, bias_R, mask_RC, rows_N = _scores(module, data, requests)
    logits_N = module.task_logits(scores_RC[mask_RC], bias_R[mask_RC.nonzero()[:, 0]])
    pointwise = masked_bce(logits_N, data.selected[rows_N].unsqueeze(1))
    teacher_RC = torch.zeros_like(scores_RC).masked_scatter(mask_RC, data.scores[rows_N])
    listwise = listwise_distillation(scores_RC, teacher_RC, mask_RC, config.teacher_temperature)
    is_top_RC = torch.zeros_like(scores_RC).masked_scatter(mask_RC, data.selected[rows_N]) > 0
    top = top_set_softmax(scores_RC, is_top_RC, mask_RC)
    return config.pointwise_weight * pointwise + config.listwise_weight * listwise + config.top_weight * top


def fit_first_stage(
    train: Examples,
    valid: Examples,
    spec: FeatureSpec,
    config: FirstStageRun | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
    checkpoints: Checkpoints | None = None,
    tables: Mapping[str, Tensor] | None = None,
    device: torch.device = CPU,
) -> FittedModel:
    """The trained first stage. Rows are candidates; columns candidate__rank and candidate__score teach.

    `metrics`: `recall_selected`, the share of a request's selected posts among as many best by this
    model, and `survival`, among twice as many; `auc_selected`, mean AUC within requests; `ne_selected`. `tables` are
    weights that tables of their name and shape start from.
    """
    config = config or FirstStageRun()
    torch.set_num_threads(num_threads)
    data = _grouped(spec, train, config.network.top_k)
    valid_data = _grouped(spec, valid, config.network.top_k)
    per_request = max(1, train.num_rows // max(1, data.num_requests))
    with seeded(seed, device):
        module = build_first_stage(spec, config.network, is_training=True)
        start_tables(module, tables or {})
        with torch.no_grad():
            module.task_bias_T.fill_(float(data.selected.mean().clamp(1e-4, 1 - 1e-4).logit()))
            module.task_scale_T.fill_(0.2)

        there, valid_there = on_device(data, device), on_device(valid_data, device)

        def loss_of(requests: Tensor) -> Tensor:
            return _loss(module, there, requests, config)

        def validate() -> dict[str, float]:
            losses = [float(_loss(module, valid_there, r, config)) * len(r) for r in _pieces(valid_there)]
            return {"valid_loss": sum(losses) / max(1, valid_data.num_requests)}

        units = max(1, config.loop.batch_size // per_request)
        history = run_training(
            module.to(device),
            config.loop,
            data.num_requests,
            loss_of,
            validate,
            seed,
            progress,
            units,
            checkpoints=checkpoints,
            device=device,
        )
    metrics = _metrics(module.cpu(), valid_data)
    return FittedModel("first_stage", module, spec, config.network, (HEAD,), (), history, metrics)


def _pieces(data: _Requests, size: int = 16) -> list[Tensor]:
    every = torch.arange(data.num_requests, device=data.places.device)
    return list(torch.split(every, size)) if len(every) else []


@torch.no_grad()
def _metrics(module: TwoTower, data: _Requests) -> dict[str, float]:
    module.eval()
    recalls: list[Tensor] = []
    survivals: list[Tensor] = []
    scores, labels, probabilities, groups = [], [], [], []
    for requests in _pieces(data):
        scores_RC, bias_R, mask_RC, rows_N = _scores(module, data, requests)
        request_N = mask_RC.nonzero()[:, 0]
        selected_RC = torch.zeros(mask_RC.shape).masked_scatter(mask_RC, data.selected[rows_N])
        order_RC = scores_RC.masked_fill(~mask_RC, float("-inf")).argsort(dim=1, descending=True, stable=True)
        wanted_R1 = selected_RC.sum(1, keepdim=True)
        found_RC, place_C = selected_RC.gather(1, order_RC), torch.arange(mask_RC.shape[1])
        for shares, factor in ((recalls, 1), (survivals, 2)):
            num_found_R = (found_RC * (place_C < factor * wanted_R1)).sum(1)
            shares.append(num_found_R / wanted_R1.squeeze(1).clamp(min=1))
        scores.append(scores_RC[mask_RC])
        labels.append(data.selected[rows_N])
        probabilities.append(module.task_logits(scores[-1], bias_R[request_N]).squeeze(1).sigmoid())
        groups.append(requests[request_N])
    label, group = torch.cat(labels).numpy(), torch.cat(groups).numpy()
    by_request, _, _ = auc_by_group(label, torch.cat(scores).numpy(), group)
    return {
        "recall_selected": float(torch.cat(recalls).mean()),
        "survival": float(torch.cat(survivals).mean()),
        "auc_selected": float(np.nanmean(by_request)) if np.isfinite(by_request).any() else float("nan"),
        "ne_selected": normalised_entropy(label, torch.cat(probabilities).numpy()),
    }
