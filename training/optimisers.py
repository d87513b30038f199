"""What turns a loss into new weights: dense weights by AdamW, tables by row-wise Adagrad.

Entry tables (the second stage's) learn by themselves during the backward pass, pooled tables (the towers') after it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.embeddings import EntryTables, table_modules
from models.sharded import ShardedTables
from training.processes import average_gradients

LEARNS_ITSELF = (EntryTables, ShardedTables)


class Optimisers:
    """Updates the weights of one network."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        table_learning_rate: float,
        weight_decay: float,
        max_gradient_norm: float,
    ) -> None:
        parts = table_modules(module).values()
        self._fused = [part for part in parts if isinstance(part, LEARNS_ITSELF)]
        is_table = {id(p) for part in parts for p in part.parameters()}
        self._dense = [p for p in module.parameters() if id(p) not in is_table]
        self._tables = [p for part in parts if not isinstance(part, LEARNS_ITSELF) for p in part.parameters()]
        self._rates, self._max_norm = (learning_rate, table_learning_rate), max_gradient_norm
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(self._dense, lr=learning_rate, weight_decay=weight_decay)
        ]
        if self._tables:
            self._optimisers.append(RowwiseAdagrad(self._tables, lr=table_learning_rate))
        self.set_rates(1.0)

    def set_rates(self, factor: float) -> None:
        """Learning rates, times `factor`, of all losses computed from now on."""
        for optimiser, rate in zip(self._optimisers, self._rates, strict=False):
            optimiser.param_groups[0]["lr"] = rate * factor
        for part in self._fused:
            part.set_learning_rate(self._rates[1] * factor)

    def step(self, loss: Tensor) -> None:
        """One update."""
        for p in (*self._dense, *self._tables):
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self._dense)
        nn.utils.clip_grad_norm_(self._dense, self._max_norm)
        for optimiser in self._optimisers:
            optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """What the optimisers have gathered so far, the tensors themselves."""
        found = {f"fused/{i}/{name}": sums for i, part in enumerate(self._fused) for name, sums in part.sums().items()}
        for o, optimiser in enumerate(self._optimisers):
            for i, p in enumerate(optimiser.param_groups[0]["params"]):
                found |= {f"{o}/{i}/{name}": value for name, value in optimiser.state.get(p, {}).items()}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`; tensors under other names are left alone."""
        for i, part in enumerate(self._fused):
            for name, sums in part.sums().items():
                sums.copy_(state[f"fused/{i}/{name}"])
        for o, optimiser in enumerate(self._optimisers):
            for i, p in enumerate(optimiser.param_groups[0]["params"]):
                of_p = {n.rsplit("/", 1)[1]: v for n, v in state.items() if n.startswith(f"{o}/{i}/")}
                if of_p:
                    # AdamW counts its steps on the host.
                    places = {name: "cpu" if name == "step" else p.device for name in of_p}
                    optimiser.state[p] = {name: v.to(places[name], copy=True) for name, v in of_p.items()}


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per row of a table; takes dense and sparse gradients.

    Source: the optimiser that TorchRec fuses into its GPU kernels (EXACT_ROWWISE_ADAGRAD).
    """

    def __init__(self, params: Sequence[nn.Parameter], lr: float, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; rows without gradient stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["sum"] = torch.zeros(p.shape[0], device=p.device)
                if p.grad.is_sparse:
                    grad = p.grad.coalesce()
                    rows, values = grad.indices()[0], grad.values()
                    state["sum"].index_add_(0, rows, values.square().mean(1))
                    scale = state["sum"][rows].sqrt().add_(group["eps"]).unsqueeze(1)
                    p.index_add_(0, rows, values / scale, alpha=-group["lr"])
                else:
                    state["sum"].add_(p.grad.square().mean(1))
                    p.addcdiv_(p.grad, state["sum"].sqrt().add_(group["eps"]).unsqueeze(1), value=-group["lr"])
