"""Trains the foundation model on what came next, with what the log alone says: no labels of any other task.

Four questions to a state. Of the last state that a page could have used: which post will be engaged with, and what will
be done to each post that is shown? Of the state just before an event: what kind of event is it, and by which creator?
Legend: N targets, B states, P posts of a batch, H engagement kinds.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from core.held_out import hash64
from core.schema import HEADS, NEGATIVE_HEADS
from models.embeddings import live_state
from models.encode import EncodedSide, encode
from models.features import FeatureSpec
from models.foundation import CREATOR, EVENT_FLAGS, FoundationConfig, FoundationModel
from models.inputs import indexed_rows
from models.losses import masked_bce, sampled_softmax
from training.checkpoints import Checkpoints
from training.device import CPU, on_device, seeded
from training.foundation_events import SEEN, Catalogue, UserEvents, published_hour, reactions
from training.foundation_windows import Windows, cut_windows, encode_windows
from training.loop import LoopConfig, Progress, run_training

POSITIVE = sum(1 << EVENT_FLAGS.index(head) for head in HEADS if head not in NEGATIVE_HEADS)
VALIDATION_SHARE, VALIDATION_WINDOWS = 0.05, 512


@dataclass(frozen=True)
class FoundationRun:
    """Everything that decides one training."""

    network: FoundationConfig = field(default_factory=FoundationConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            batch_size=16, max_epochs=4, learning_rate=1e-3, table_learning_rate=0.005, patience=3
        )
    )
    next_epochs: int = 2
    """Epochs of a training that starts from the weights of an earlier one."""
    most_steps: int = 700
    """Steps per epoch; a longer log has larger batches."""
    drawn_posts: int = 512
    """Posts of the catalogue that stand beside those of the batch in the softmax."""
    logq_power: float = 0.5
    head_weights: tuple[float, ...] = tuple(2.0 if head in ("click", "long_view", "like") else 1.0 for head in HEADS)
    question_weights: tuple[float, float, float, float] = (10.0, 0.2, 0.1, 0.1)
    """Reaction to what is shown, next engaged post, kind of the next event, its creator."""


@dataclass(frozen=True)
class Targets:
    """What is asked of states: event `event` [N] of the state in window `window` at `place`, sorted by window."""

    event: NDArray[np.int64]
    window: NDArray[np.int64]
    place: NDArray[np.int64]
    first: NDArray[np.int64]
    """Targets of window w are `first[w]` to `first[w + 1]`."""

    def of(self, windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Event, row in `windows` and place of the targets of these windows."""
        counts = self.first[windows + 1] - self.first[windows]
        row = np.repeat(np.arange(len(windows)), counts)
        chosen = self.first[windows][row] + np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
        return self.event[chosen], row, self.place[chosen]


def _targets(windows: Windows, event: NDArray[np.int64], counts: NDArray[np.int64]) -> Targets:
    window, place = windows.locate(windows.events.user_of()[event], counts)
    order = np.argsort(window, kind="stable")
    first = np.searchsorted(window[order], np.arange(len(windows.of_user) + 1))
    return Targets(event[order], window[order], place[order], first)


def shown_targets(windows: Windows, until: int) -> Targets:
    """Posts seen whose reaction had an hour to show by `until`, each asked of the last state its page could use."""
    events = windows.events
    event = np.flatnonzero((events.flags & SEEN > 0) & (events.hour < until))
    counts = events.count_visible(events.user_of()[event], published_hour(events.served_at[event]))
    # Instants may be out of order with arrivals; an event is never asked of a state that has read it.
    return _targets(windows, event, np.minimum(counts, event - events.first[events.user_of()[event]]))


def next_targets(windows: Windows) -> Targets:
    """Every event, asked of the state just before it."""
    event = np.arange(windows.events.num_events)
    return _targets(windows, event, event - windows.events.first[windows.events.user_of()])


@dataclass(frozen=True)
class Material:
    """One training's view of the log: events until `until`, inputs of all users and posts, posts known by then."""

    windows: Windows
    users: EncodedSide
    posts: EncodedSide
    until: int
    known_posts: NDArray[np.int64]
    log_share: Tensor
    """Log of each post's share of the events, [P]; a post without any as if it had half of one."""

    @staticmethod
    def of(events: UserEvents, catalogue: Catalogue, spec: FeatureSpec, length: int, until: int) -> "Material":
        past = events.until(until)
        counts = np.bincount(past.post, minlength=len(catalogue.ids))
        share = torch.from_numpy(np.maximum(counts, 0.5) / max(1, past.num_events)).to(torch.float32)
        return Material(
            cut_windows(past, length),
            encode(spec, "user", past.columns),
            encode(spec, "post", catalogue.columns),
            until,
            np.flatnonzero(catalogue.from_hour <= until),
            share.log(),
        )

    def on(self, device: torch.device) -> "Material":
        """The same with its tensors on `device`."""
        moved = {name: on_device(getattr(self, name), device) for name in ("users", "posts", "log_share")}
        return replace(self, **moved)


class _Questions:
    """The loss of a batch of windows."""

    def __init__(self, module: FoundationModel, material: Material, run: FoundationRun) -> None:
        self.module, self.material, self.run = module, material, run
        self.shown, self.next = shown_targets(material.windows, material.until), next_targets(material.windows)
        self.device = material.log_share.device
        self.labels = self._there(reactions(material.windows.events))
        self.head_weights = (torch.tensor(run.head_weights) / sum(run.head_weights)).to(self.device)

    def _there(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def __call__(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Tensor]:
        module, events = self.module, self.material.windows.events
        shown, row, place = self.shown.of(chosen)
        after, next_row, next_place = self.next.of(chosen)
        drawn = rng.choice(self.material.known_posts, self.run.drawn_posts)
        also = np.concatenate([events.post[shown], events.post[after], drawn])
        states, posts_PD, post_rows, encoded = encode_windows(
            module, self.material.windows, chosen, self.material.users, self.material.posts, also
        )
        length = states.shape[1]
        flat = states.flatten(0, 1)
        users_ND = module.user_vectors(flat[self._there(row * length + place)])
        wanted_N = self._there(np.searchsorted(post_rows, events.post[shown]))
        labels_NH = self.labels[self._there(shown)]
        losses = {"reaction": masked_bce(module.reactions(users_ND, posts_PD[wanted_N]), labels_NH, self.head_weights)}
        is_engaged = (labels_NH[:, : -len(NEGATIVE_HEADS)].nan_to_num(0.0) > 0).any(1)
        ids_P = self._there(post_rows)
        log_q_P = self.run.logq_power * self.material.log_share[ids_P]
        losses["post"] = self._choice(users_ND[is_engaged], posts_PD, wanted_N[is_engaged], ids_P, log_q_P)
        before_BS = flat[self._there(next_row * length + next_place)]
        flags_B = self._there(events.flags[after])
        # The rarest thing that happened says most: the highest bit.
        kind_B = torch.log2(flags_B.clamp(min=1).to(torch.float32)).long()
        losses["kind"] = F.cross_entropy(module.kinds(before_BS), kind_B)
        acted = (flags_B & POSITIVE) > 0
        place_B = self._there(np.searchsorted(post_rows, events.post[after]))[acted]
        rows_P = indexed_rows(module.spec, "post", encoded)[CREATOR][:, 0]
        creators_C, creator_P = rows_P.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        share_P = self.material.log_share[ids_P].exp()
        share_C = share_P.new_zeros(len(creators_C)).index_add_(0, creator_P, share_P)
        users_BD, vectors_CD = module.user_vectors(before_BS[acted]), module.creators(creators_C.unsqueeze(1))
        log_q_C = self.run.logq_power * share_C.log()
        losses["creator"] = self._choice(users_BD, vectors_CD, creator_P[place_B], creators_C, log_q_C)
        return losses

    def _choice(self, users: Tensor, posts_PD: Tensor, wanted: Tensor, ids_P: Tensor, log_q_P: Tensor) -> Tensor:
        if not len(users):
            return users.sum()
        directed = self.module.directed
        return sampled_softmax(directed(users), directed(posts_PD), wanted, log_q_P, ids_P)

    def total(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        weighted = [w * loss for w, loss in zip(self.run.question_weights, self(chosen, rng).values(), strict=True)]
        return torch.stack(weighted).sum()


def fit_foundation(
    material: Material,
    spec: FeatureSpec,
    run: FoundationRun,
    is_left_out: NDArray[np.bool_],
    before: FoundationModel | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    num_threads: int = 2,
    checkpoints: Checkpoints | None = None,
    device: torch.device = CPU,
) -> tuple[FoundationModel, tuple[dict[str, float], ...]]:
    """The trained network and its validations; it starts from the weights of `before` where there is one.

    Users of `is_left_out` [U] teach nothing; a twentieth of the others, by a hash of the id, decides when to stop.
    """
    torch.set_num_threads(num_threads)
    windows = material.windows
    has_events = np.diff(windows.events.first)[windows.of_user] > 0
    is_valid_user = hash64(windows.events.user_ids, 11) < np.uint64(int(VALIDATION_SHARE * 2**64))
    usable = has_events & ~is_left_out[windows.of_user]
    train = np.flatnonzero(usable & ~is_valid_user[windows.of_user])
    valid = np.flatnonzero(usable & is_valid_user[windows.of_user])[:VALIDATION_WINDOWS]
    loop = replace(run.loop, batch_size=max(run.loop.batch_size, len(train) // run.most_steps))
    loop = loop if before is None else replace(loop, max_epochs=run.next_epochs)
    with seeded(seed, device):
        module = FoundationModel(spec, run.network, is_training=True)
        if before is not None:
            with torch.no_grad():
                source = live_state(before)
                for name, weight in live_state(module).items():
                    weight.copy_(source[name])
        ask = _Questions(module.to(device), material.on(device), run)

        def loss_of(windows: NDArray[np.int64]) -> Tensor:
            # Drawn from torch's generator, whose state a checkpoint keeps.
            drawing = np.random.default_rng([seed, material.until, int(torch.randint(2**62, ()))])
            return ask.total(windows, drawing)

        def validate() -> dict[str, float]:
            judged, same = valid if len(valid) else train[:VALIDATION_WINDOWS], np.random.default_rng(seed)
            batches = np.array_split(judged, -(-len(judged) // run.loop.batch_size))
            found = [ask(batch, same) for batch in batches]
            means = {name: float(torch.stack([f[name] for f in found]).nanmean()) for name in found[0]}
            total = sum(w * v for w, v in zip(run.question_weights, means.values(), strict=True))
            return {"valid_loss": total} | {f"valid_{name}": value for name, value in means.items()}

        history = run_training(
            module,
            loop,
            len(train),
            loss_of,
            validate,
            seed,
            progress,
            prepare=lambda rows: train[rows.numpy()],
            checkpoints=checkpoints,
            device=device,
        )
    return module.cpu(), history
