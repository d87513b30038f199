"""What bfloat16 asks of a network: inputs that several products read are cast once."""

import torch
from torch import Tensor


def lowered(x: Tensor) -> Tensor:
    """`x` in the type that autocast's products compute in; as it is where autocast is off.

    Autocast casts an input anew for every product that reads it, and its gradients back.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
