"""Trains two-tower retrieval on impressions: sampled softmax over the posts of a batch, and one task per engagement.

Legend: B rows of a batch, P of them positives, T tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.schema import HEADS
from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from models.losses import masked_bce, sampled_softmax
from models.metrics import auc, recall_at_k
from models.sharded import is_sharded, rows_of_all
from models.towers import TowerConfig, TwoTower
from training import processes
from training.balancing import Balance, draw_balanced
from training.checkpoints import Checkpoints
from training.device import CPU, on_device, seeded
from training.examples import Examples
from training.full_softmax import FullSoftmax
from training.hard_negatives import HardNegatives, MinedPosts
from training.labels import positive_values
from training.loop import FittedModel, LoopConfig, Progress, run_training, spaced_rows
from training.spectral import spectral_vectors

POSITIVE = "positive"
"""The task "worth something as a whole", beside tasks named like heads."""
VALIDATION_ROWS = 50_000
RECALL_QUERIES = 2_000


@dataclass(frozen=True)
class RetrievalConfig:
    """Everything that decides one training of retrieval."""

    network: TowerConfig = field(default_factory=TowerConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(batch_size=2048, max_epochs=2, table_learning_rate=0.05)
    )
    tasks: tuple[str, ...] = (POSITIVE, "click", "long_view")
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of a task in the pointwise loss, 1 where not named."""
    softmax_weight: float = 1.0
    pointwise_weight: float = 1.0
    log_q_power: float = 0.5
    """1 removes a post's exposure from what is learned to be likely (logQ correction in full), 0 keeps
    exposure as the reference, so that scores tell what is liked where it was shown."""
    spectral_damping: float | None = None
    """Identities start from the spectrum of the engagements, degrees damped by this; None for random."""
    softmax_over: Literal["batch", "all"] = "batch"
    """"all": every post, for networks of identities alone; a batch is then of users with all their positives."""
    smoothing: float = 0.0
    """How far posts lie towards who engaged with them, in lengths of their identity; with "all" only."""
    balance: Balance | None = None
    """Draws rows so that one task's classes are even; its logits and the other tasks' weights are corrected."""
    hard_negatives: HardNegatives | None = None
    """Sets the positives of a user against posts that the last epoch's network ranks high for it."""
    recall_k: int = 100

    def __post_init__(self) -> None:
        if self.softmax_over == "all" and self.pointwise_weight > 0:
            raise ValueError("softmax_over 'all' has no other loss beside it; set pointwise_weight to 0")
        if self.softmax_over == "batch" and self.smoothing > 0:
            raise ValueError("smoothing is for softmax_over 'all'")
        if self.spectral_damping is not None and not (self.network.user_identity and self.network.post_identity):
            raise ValueError("spectral_damping places identities; name user_identity and post_identity in the network")
        if self.balance is not None and self.balance.task not in self.tasks:
            raise ValueError(f"balance names task {self.balance.task}, expected one of {', '.join(self.tasks)}")
        if self.hard_negatives is not None and self.softmax_weight <= 0:
            raise ValueError("hard_negatives stand in the softmax; give it a softmax_weight above 0")


def task_labels(labels: NDArray[np.float32], tasks: tuple[str, ...]) -> NDArray[np.float32]:
    """Labels [N, T] of the tasks from labels [N, H] of the heads; `positive` is worth above 0."""
    unknown = sorted(set(tasks) - {POSITIVE, *HEADS})
    if unknown:
        raise ValueError(f"tasks {', '.join(unknown)} are unknown, expected {POSITIVE} or some of {', '.join(HEADS)}")
    worth = (positive_values(labels) > 0).astype(np.float32)
    return np.stack([worth if task == POSITIVE else labels[:, HEADS.index(task)] for task in tasks], axis=1)


@dataclass(frozen=True)
class _Rows:
    """Encoded examples of both sides with what the losses need; `user` has a row per request."""

    user: EncodedSide
    post: EncodedSide
    user_of: Tensor
    labels: Tensor
    worth: Tensor
    weights: Tensor
    post_ids: Tensor
    log_q: Tensor
    task_weights: Tensor | None = None
    """[N, T] weights by task, where rows were drawn by the label of one."""
    task_shifts: Tensor | None = None
    """[T] what drawing added to the log odds."""
    softmax_weights: Tensor | None = None
    """[N] weights of positives in the softmax, where a row is drawn more or less often than it counts."""

    def users(self, batch: Tensor) -> EncodedSide:
        """The users of a batch of rows, one per row."""
        return self.user.take(self.user_of[batch])


def _encoded(spec: FeatureSpec, examples: Examples, config: RetrievalConfig) -> _Rows:
    ids, inverse, counts = np.unique(examples.post_ids, return_inverse=True, return_counts=True)
    log_q = _log_chances(ids, counts)[inverse]
    weights = np.ones(examples.num_rows) if examples.weights is None else examples.weights
    users, user_of = examples.users()
    return _Rows(
        encode(spec, "user", users),
        encode(spec, "post", examples.columns),
        torch.from_numpy(user_of),
        torch.from_numpy(task_labels(examples.labels, config.tasks)),
        torch.from_numpy(positive_values(examples.labels)),
        torch.from_numpy(np.array(weights, dtype=np.float32)),
        torch.from_numpy(np.array(examples.post_ids, dtype=np.int64)),
        torch.from_numpy((config.log_q_power * log_q).astype(np.float32)),
    )


def _log_chances(ids: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log of the chance that a post takes a given place in a batch: its share of the rows."""
    of_all, total = processes.counts_of_all(ids, counts)
    return np.log(of_all.clip(1) / total)


def _batch_loss(
    module: TwoTower,
    rows: _Rows,
    batch: Tensor,
    config: RetrievalConfig,
    task_weights_T: Tensor,
    mined: MinedPosts | None = None,
) -> Tensor:
    users_BD, user_bias_B, posts_BD = module.pairs(rows.users(batch), rows.post.take(batch))
    logits_BT = module.task_logits((users_BD * posts_BD).sum(1), user_bias_B)
    weights_B = rows.weights[batch]
    weights = weights_B
    if rows.task_weights is not None and rows.task_shifts is not None:
        logits_BT, weights = logits_BT + rows.task_shifts, rows.task_weights[batch]
    loss = config.pointwise_weight * masked_bce(logits_BT, rows.labels[batch], task_weights_T, weights)
    worth_B = rows.worth[batch]
    positives_P = worth_B.nonzero().squeeze(1)
    log_q_N, ids_N, first = rows.log_q[batch], rows.post_ids[batch], 0
    if is_sharded() and module.training and config.softmax_weight > 0:  # one softmax over what all drew
        posts_BD, first = rows_of_all(posts_BD)
        loss = loss + 0.0 * posts_BD.sum()  # without a positive here, the others still wait for the gradients' exchange
        log_q_N, ids_N = rows_of_all(log_q_N)[0], rows_of_all(ids_N)[0]
    softmax_weights = rows.weights if rows.softmax_weights is None else rows.softmax_weights
    if len(positives_P) and config.softmax_weight > 0:
        loss = loss + config.softmax_weight * sampled_softmax(
            users_BD[positives_P],
            posts_BD,
            positives_P + first,
            log_q_N,
            ids_N,
            (worth_B * softmax_weights[batch])[positives_P],
            None
            if mined is None
            else _hard_logits(module, rows, batch[positives_P], users_BD[positives_P], mined, config),
        )
    return loss


def _hard_logits(
    module: TwoTower, rows: _Rows, positives: Tensor, users_PD: Tensor, mined: MinedPosts, config: RetrievalConfig
) -> Tensor | None:
    """Corrected logits [P, K] of the posts mined for the users of these rows."""
    mined_PK = mined.rows_RK[rows.user_of[positives]]
    is_mined_PK = mined_PK >= 0
    if not is_mined_PK.any():
        return None
    needed, place = torch.unique(mined_PK.clamp(min=0), return_inverse=True)
    posts_PKD = module.post_vectors(rows.post.take(needed))[place]
    log_q = config.log_q_power * mined.log_chance(config.loop.batch_size)
    return ((users_PD[:, None] * posts_PKD).sum(2) - log_q).masked_fill(~is_mined_PK, float("-inf"))


def _drawn(rows: _Rows, config: RetrievalConfig, balance: Balance, seed: int) -> tuple[_Rows, Tensor]:
    """The rows with what drawing them changes, and the rows drawn, [M]."""
    task = config.tasks.index(balance.task)
    drawn = draw_balanced(rows.labels[:, task].numpy(), rows.weights.numpy(), balance, seed)
    even_N = rows.weights / torch.from_numpy(drawn.rates)
    weights_NT = even_N[:, None].repeat(1, len(config.tasks))
    weights_NT[:, task] = rows.weights
    shifts_T = torch.zeros(len(config.tasks))
    shifts_T[task] = drawn.log_odds_shift
    ids, post = np.unique(rows.post_ids.numpy(), return_inverse=True)
    log_q = _log_chances(ids, np.bincount(post[drawn.rows], minlength=len(ids)))[post]
    log_q_N = torch.from_numpy((config.log_q_power * log_q).astype(np.float32))
    changed = replace(rows, log_q=log_q_N, task_weights=weights_NT, task_shifts=shifts_T, softmax_weights=even_N)
    return changed, torch.from_numpy(drawn.rows)


@torch.no_grad()
def _start_from_engagements(module: TwoTower, rows: _Rows, config: RetrievalConfig, damping: float, seed: int) -> None:
    """Puts the identities where the graph of engagements says, and the posts' biases at their exposure."""
    users_B = module.identity_rows("user", rows.user)[rows.user_of]
    posts_B = module.identity_rows("post", rows.post)
    user_table, post_table = module.identity_table("user"), module.identity_table("post")
    positives = rows.worth > 0
    pairs = users_B[positives].numpy(), posts_B[positives].numpy()
    dim = config.network.dim
    vectors = spectral_vectors(*pairs, len(user_table), len(post_table), dim, damping, seed)
    for table, started in zip((user_table, post_table), vectors, strict=True):
        table[:, :dim], table[:, dim] = torch.from_numpy(started), 0.0
    post_table[:, dim] = rows.log_q.min()
    post_table[posts_B, dim] = rows.log_q


def _fit_in_batches(
    module: TwoTower,
    rows: _Rows,
    valid: _Rows,
    train: Examples,
    config: RetrievalConfig,
    task_weights_T: Tensor,
    seed: int,
    progress: Progress | None,
    checkpoints: Checkpoints | None,
    device: torch.device,
) -> tuple[dict[str, float], ...]:
    drawn = torch.arange(train.num_rows)
    if config.balance is not None:
        rows, drawn = _drawn(rows, config, config.balance, seed)
    rows, valid = on_device(rows, device), on_device(valid, device)
    mined = None if config.hard_negatives is None else _mined(module, rows, train, config.hard_negatives, seed)

    def loss_of(batch: Tensor) -> Tensor:
        return _batch_loss(module, rows, batch, config, task_weights_T, mined)

    def validate() -> dict[str, float]:
        size, total = config.loop.batch_size, len(valid.worth)
        # A fixed order that mixes times, so that the softmax meets the same posts every time.
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        batches = torch.split(order.to(device), size)
        losses = [float(_batch_loss(module, valid, b, config, task_weights_T)) * len(b) for b in batches]
        return {"valid_loss": sum(losses) / total}

    return run_training(
        module,
        config.loop,
        len(drawn),
        loss_of,
        validate,
        seed,
        progress,
        prepare=lambda batch: drawn[batch],
        checkpoints=checkpoints,
        renewed=mined,
        device=device,
    )


def _fit_over_all(
    module: TwoTower,
    rows: _Rows,
    valid: _Rows,
    config: RetrievalConfig,
    seed: int,
    progress: Progress | None,
    checkpoints: Checkpoints | None,
    device: torch.device,
) -> tuple[dict[str, float], ...]:
    """Of `valid` the users: their positives in `rows` are what is watched, since every post stands in `rows`."""
    rows, valid = on_device(rows, device), on_device(valid, device)
    positives = rows.worth.nonzero().squeeze(1)
    weights = (rows.worth * rows.weights)[positives]
    softmax = FullSoftmax(module, rows.user, rows.post, rows.user_of[positives], positives, weights, config.smoothing)
    watched = softmax.units_of(valid.user)

    def validate() -> dict[str, float]:
        batches = torch.split(watched, config.loop.batch_size)
        return {"valid_loss": sum(float(softmax.loss(users)) * len(users) for users in batches) / len(watched)}

    num_users = softmax.num_users
    history = run_training(
        module, config.loop, num_users, softmax.loss, validate, seed, progress, checkpoints=checkpoints, device=device
    )
    softmax.settle()
    return history


def _mined(module: TwoTower, rows: _Rows, train: Examples, config: HardNegatives, seed: int) -> MinedPosts:
    sides = rows.user, rows.post, rows.user_of.cpu().numpy()
    return MinedPosts(module, *sides, train.user_ids, train.post_ids, rows.worth.cpu().numpy() > 0, config, seed)


def fit_retrieval(
    train: Examples,
    valid: Examples,
    spec: FeatureSpec,
    config: RetrievalConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
    checkpoints: Checkpoints | None = None,
    device: torch.device = CPU,
) -> FittedModel:
    """The trained two-tower network.

    Rows are impressions, engaged or not: those without worth are the negatives of the pointwise tasks
    and further candidates of the softmax. `metrics` has `auc_<task>` and `recall_at_<k>`: the share of
    valid positives whose post ranks among the first k of all posts seen in `valid`.
    """
    config = config or RetrievalConfig()
    reads_more = config.softmax_over == "all" or config.network.history_encoder != "none"
    reads_more |= config.hard_negatives is not None or config.spectral_damping is not None
    if processes.count() > 1 and reads_more:
        raise ValueError(
            "softmax_over 'all', history_encoder, hard_negatives and spectral_damping read more of the tables than the "
            "means that processes exchange; train with one process"
        )
    torch.set_num_threads(num_threads)
    rows = _encoded(spec, train, config)
    valid_examples = valid.take(spaced_rows(valid.num_rows, VALIDATION_ROWS))
    valid_rows = _encoded(spec, valid_examples, config)
    weights = np.array([config.task_weights.get(task, 1.0) for task in config.tasks], dtype=np.float32)
    task_weights_T = torch.from_numpy(weights / weights.sum())
    with seeded(seed, device):
        module = TwoTower(spec, config.network, len(config.tasks), is_training=True)
        rates = rows.labels.nanmean(0).nan_to_num(0.5).clamp(1e-5, 1 - 1e-5)
        with torch.no_grad():
            module.task_bias_T.copy_(rates.logit())
            module.task_scale_T.fill_(0.2)  # scores start as wide as the temperature makes them
        if config.spectral_damping is not None:
            _start_from_engagements(module, rows, config, config.spectral_damping, seed)

        module.to(device)
        run = (seed, progress, checkpoints, device)
        if config.softmax_over == "all":
            history = _fit_over_all(module, rows, valid_rows, config, *run)
        else:
            history = _fit_in_batches(module, rows, valid_rows, train, config, task_weights_T.to(device), *run)
    metrics = _metrics(module.cpu(), valid_rows, config)
    return FittedModel("retrieval", module, spec, config.network, config.tasks, (), history, metrics)


@torch.no_grad()
def _metrics(module: TwoTower, rows: _Rows, config: RetrievalConfig) -> dict[str, float]:
    module.eval()
    scores, vectors = [], []
    for start in range(0, len(rows.worth), 8_192):
        batch = torch.arange(start, min(start + 8_192, len(rows.worth)))
        users_BD, bias_B = module.user_parts(rows.users(batch))
        vectors.append(module.post_vectors(rows.post.take(batch)))
        scores.append(module.task_logits((users_BD * vectors[-1]).sum(1), bias_B))
    logits_NT, posts_ND = torch.cat(scores).numpy(), torch.cat(vectors)
    labels_NT = rows.labels.numpy()
    found = {}
    for t, task in enumerate(config.tasks):
        seen = ~np.isnan(labels_NT[:, t])
        found[f"auc_{task}"] = auc(labels_NT[seen, t], logits_NT[seen, t])
    _, last = np.unique(rows.post_ids.numpy()[::-1], return_index=True)
    catalogue = torch.from_numpy(len(rows.worth) - 1 - last)  # the newest vector of each post
    positives = rows.worth.nonzero().squeeze(1)
    queries = positives[torch.from_numpy(spaced_rows(len(positives), RECALL_QUERIES))]
    if len(queries):
        users_QD = module.user_vectors(rows.users(queries))
        top_QK = (users_QD @ posts_ND[catalogue].T).topk(min(config.recall_k, len(catalogue)), dim=1).indices
        ids_QK = rows.post_ids[catalogue][top_QK].numpy()
        relevant = list(rows.post_ids[queries].numpy()[:, None])
        found[f"recall_at_{config.recall_k}"] = recall_at_k(ids_QK, relevant, config.recall_k)
    return found
