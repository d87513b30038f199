"""One embedding table whose rows learn during the backward pass: fbgemm's fused row-wise Adagrad, TorchRec's kernel.

Only the rows that a batch reads are touched, each once, in place; no gradient of the table ever exists.
Legend: M entries, D width of the table.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH_MULTIPLE = 4
EPSILON = 1e-8


class FusedTable(nn.Module):
    """Rows of an embedding table to vectors.

    Read a table once per forward pass: several features go in as one list of rows, or each of their updates
    would count as a step of its own. The table stays on the host whatever `to` says; rows come from any device and
    their vectors go back there. `is_half` keeps the weights in float16 (the CPU's kernel knows no bfloat16).
    """

    def __init__(self, name: str, num_rows: int, dim: int, *, is_half: bool = False) -> None:
        super().__init__()
        if dim % WIDTH_MULTIPLE:
            raise ValueError(f"table {name} is {dim} wide; the kernel wants a multiple of {WIDTH_MULTIPLE}")
        self.kernel = _kernel(num_rows, dim, is_half)
        self.kernel.init_embedding_weights_uniform(-(num_rows**-0.5), num_rows**-0.5)

    @property
    def weight(self) -> Tensor:
        """The table, [rows, D], as a view."""
        weight: Tensor = self.kernel.split_embedding_weights()[0]
        return weight

    @property
    def sums(self) -> Tensor:
        """Adagrad's sum of mean squared gradients per row, [rows], as a view."""
        sums: Tensor = self.kernel.split_optimizer_states()[0][0]
        return sums

    def set_learning_rate(self, rate: float) -> None:
        """The rate of the coming forward passes: the kernel takes it along to the backward pass."""
        self.kernel.set_learning_rate(rate)

    @torch.no_grad()
    def start_anew(self, rows_M: Tensor) -> None:
        """Gives rows that have a new owner fresh weights, and forgets what they have learnt with."""
        bound = self.weight.shape[0] ** -0.5
        self.weight[rows_M] = torch.empty(len(rows_M), self.weight.shape[1]).uniform_(-bound, bound).to(self.weight)
        for state in self.kernel.split_optimizer_states()[0]:
            state[rows_M] = 0

    def _apply(self, fn: Any, recurse: bool = True) -> "FusedTable":
        # A network that moves to a GPU leaves its tables, which may be larger than the GPU's memory.
        return self

    def forward(self, rows_M: Tensor) -> Tensor:
        device, rows_M = rows_M.device, rows_M.cpu()
        if not torch.is_grad_enabled():  # the kernel knows no inference mode
            return F.embedding(rows_M, self.weight).float().to(device)
        # Bags of one entry: on CPU the kernel without bags took twenty times as long.
        offsets = torch.arange(len(rows_M) + 1, dtype=rows_M.dtype)
        vectors_MD: Tensor = self.kernel(rows_M, offsets)
        return vectors_MD.to(device)


def _kernel(num_rows: int, dim: int, is_half: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import warns of GPU-only parts
        from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
        from fbgemm_gpu.split_embedding_configs import SparseType
    return training.SplitTableBatchedEmbeddingBagsCodegen(
        [(num_rows, dim, common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)],
        optimizer=training.OptimType.EXACT_ROWWISE_ADAGRAD,
        pooling_mode=common.PoolingMode.SUM,
        weights_precision=SparseType.FP16 if is_half else SparseType.FP32,
        bounds_check_mode=common.BoundsCheckMode.FATAL,
        eps=EPSILON,
    )
