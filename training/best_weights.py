"""The best weights so far, on disk: a copy in memory would double what the tables take."""

import tempfile
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from models.embeddings import live_state


class BestWeights:
    """Keeps a network's weights in a temporary file (in TMPDIR) and puts them back."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = list(live_state(module).values())
        odd = [tuple(w.shape) for w in self._weights if not w.is_contiguous()]
        if odd:
            raise ValueError(f"weights of shape {odd[0]} are not contiguous and cannot be written as they lie")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed on exit

    def __enter__(self) -> "BestWeights":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def keep(self) -> None:
        """Writes the weights as they are now over those kept before."""
        self._file.seek(0)
        for weight in self._weights:
            self._file.write(_bytes(weight.cpu()))

    def restore(self) -> None:
        """Puts the kept weights back."""
        self._file.seek(0)
        for weight in self._weights:
            kept = weight if weight.device.type == "cpu" else torch.empty_like(weight, device="cpu")
            if self._file.readinto(_bytes(kept)) != weight.nbytes:
                raise OSError(f"the best weights in {tempfile.gettempdir()} were cut short; train again")
            if kept is not weight:
                weight.copy_(kept)


def _bytes(weight: Tensor) -> memoryview:
    """The weight's own memory; empty weights and scalars too."""
    flat: Any = weight.view(-1).view(torch.uint8).numpy()
    return memoryview(flat)
