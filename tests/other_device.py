"""A device that is none: tensors lie in the host's memory, say that they lie elsewhere, and refuse to meet the host's.

What runs there is what would run on a GPU, but for its kernels; a forgotten `.to(device)` or `.cpu()` is an error as it
is there.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("meta")
"""The label: a device type that torch's autograd takes as it takes the host."""
aten = torch.ops.aten
TAKES_INDICES_OF_THE_HOST = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)


class _There(Tensor):
    """Wraps the host's tensor."""

    is_meta = False  # TorchRec makes up lengths for tensors without values

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_There":
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=ELSEWHERE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _There) else value


def _outer(value: Any) -> Any:
    return _There(value) if isinstance(value, Tensor) and not isinstance(value, _There) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = any(isinstance(value, _There) for value in given)
    here = any(not isinstance(value, _There) and value.dim() for value in given)
    if there and here and func is not aten.copy_.default and func not in TAKES_INDICES_OF_THE_HOST:
        raise AssertionError(f"{func} got tensors of both devices: {[(type(v).__name__, v.shape) for v in given]}")
    if kwargs.get("device") is not None:
        there = kwargs["device"].type == ELSEWHERE.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    returns = func._schema.returns
    if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
        return args[0]
    return tree_map(_outer, found) if there else found


@contextmanager
def other_device(monkeypatch: Any) -> Iterator[torch.device]:
    """Inside, tensors made on or sent to the device that is given lie there. No autocast and no other threads."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr("training.loop.prepared_ahead", lambda batches, prepare: map(prepare, batches))
    with _Mode():
        yield ELSEWHERE
