"""Where a training computes and how precisely: on a GPU where there is one, in bfloat16 there.

Only what a loss computes is in bfloat16: weights, optimisers, sums of losses and validations stay in float32. Entry
tables stay on the host (models/fused.py), and so does a fitted network: trainers bring it back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from core.errors import ConfigError
from models.sharded import is_sharded

T = TypeVar("T")
Precision = Literal["auto", "float32", "bfloat16"]
"""auto: bfloat16 on a GPU that computes in it, float32 on a processor."""
CPU = torch.device("cpu")


def training_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of this name; `auto` is a GPU where there is one, and the processor where several processes train.

    Raises ConfigError for a GPU that cannot be used.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"VITRINE_DEVICE is cuda, but torch {torch.__version__} finds no GPU; install the driver and a CUDA build "
            "of torch, or set VITRINE_DEVICE to auto or cpu"
        )
    if name == "cuda" and is_sharded():
        raise ConfigError("VITRINE_DEVICE is cuda, but processes that train together compute on the CPU; set it to cpu")
    if name == "cpu" or is_sharded() or not torch.cuda.is_available():
        return CPU
    return torch.device("cuda", torch.cuda.current_device())


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a loss is computed."""
    is_low = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_low)


def on_device(value: T, device: torch.device) -> T:
    """The value with every tensor in it on `device`, through dataclasses and mappings; anything else as it is."""
    found: Any = value
    if isinstance(found, Tensor):
        found = found.to(device)
    elif isinstance(found, Mapping):
        found = {name: on_device(part, device) for name, part in found.items()}
    elif is_dataclass(found) and not isinstance(found, type):
        found = replace(found, **{f.name: on_device(getattr(found, f.name), device) for f in fields(found)})
    return found


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start from `seed` inside and are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
