"""Which code made a thing: hashes of module texts, so that changed code is never taken for unchanged work."""

from collections.abc import Sequence
from pathlib import Path

import models
from core.files import content_hash

ROOM = Path(__file__).resolve().parent
LEARNING = (
    "balancing",
    "checkpoints",
    "device",
    "encoded_examples",
    "examples",
    "fit_*",
    "foundation*",
    "full_softmax",
    "hard_negatives",
    "head_losses",
    "importance",
    "labels",
    "loop",
    "optimisers",
    "processes",
    "recipe*",
    "sampling",
    "shared_codes",
    "spectral",
    "table_budget",
    "train",
    "unknown_users",
    "upsampling",
)


def code_id(modules: Sequence[str]) -> str:
    """Hash of the texts of these modules of the training room; names may hold wildcards."""
    files = sorted(file for name in modules for file in ROOM.glob(f"{name}.py"))
    return content_hash([part for file in files for part in (file.name, file.read_bytes())])


def learning_code_id() -> str:
    """Hash of all code between a training set and a bundle."""
    files = sorted(Path(next(iter(models.__path__))).glob("*.py"))
    network = content_hash([part for file in files for part in (file.name, file.read_bytes())])
    return content_hash([code_id(LEARNING), network])
