"""The network of a bundle as an ONNX graph: the same numbers as the torch module, without Python between its steps.

Exported for one user: their vector, or the logits of N posts shown to them. Everything else asks the module.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.encode import EncodedSide, blank_side
from models.features import SIDES, FeatureSpec, Side
from models.second_stage import SecondStage
from models.towers import TwoTower

MAX_TABLE_BYTES = 512_000_000
"""Of float32 tables; with larger ones the graph, which holds them again, would take more room than it saves time."""
_NUM_POSTS = 7
"""Of the example that is traced; any number but 0 and 1, which torch takes for constants."""


class Graph:
    """A graph ready to run; the session is made on first use. Threads may share it."""

    def __init__(self, model: bytes) -> None:
        self._model = model

    def run(self, sides: Mapping[Side, Mapping[str, NDArray[Any]]]) -> NDArray[np.float32]:
        """What the network gives for `EncodedSide.arrays` of each side."""
        session, inputs = self._session
        (found,) = session.run(None, {name: sides[side][array] for name, side, array in inputs})
        return np.asarray(found, dtype=np.float32)

    @cached_property
    def _session(self) -> tuple[Any, list[tuple[str, Side, str]]]:
        """The session, and for each of its inputs the side and array that it reads."""
        # Imported late: training and tools load bundles and run no graph.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        return session, [(found.name, *_side_and_array(found.name)) for found in session.get_inputs()]


def export_graph(module: TwoTower | SecondStage, spec: FeatureSpec) -> bytes | None:
    """The graph of an inference network in evaluation mode; None where its tables are too large.

    Equal weights give equal bytes.
    """
    if 4 * sum(t.num_rows * t.dim for t in spec.tables) > MAX_TABLE_BYTES:
        return None
    network: _Traced = _Logits(module) if isinstance(module, SecondStage) else _UserVector(module)
    sides: tuple[Side, ...] = SIDES if isinstance(module, SecondStage) else ("user",)
    names, tensors, shapes = [], [], []
    for side in sides:
        for array, tensor in blank_side(spec, side, 1 if side == "user" else _NUM_POSTS).tensors().items():
            names.append(f"{side} {array}")
            tensors.append(tensor)
            shapes.append({} if side == "user" else {0: torch.export.Dim.DYNAMIC})
    network.names = names
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            network.eval(), (tensors,), input_names=names, dynamic_shapes=(shapes,), dynamo=True, verbose=False
        )
    return _without_origin(program.model_proto)


class _Traced(nn.Module):
    """A network that takes the tensors of its sides as one list."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names: list[str] = []

    def sides(self, tensors: list[Tensor]) -> dict[Side, EncodedSide]:
        """The tensors as the network takes them."""
        by_side: dict[Side, dict[str, Tensor]] = {}
        for name, tensor in zip(self.names, tensors, strict=True):
            side, array = _side_and_array(name)
            by_side.setdefault(side, {})[array] = tensor
        return {side: EncodedSide.of_tensors(named) for side, named in by_side.items()}


class _UserVector(_Traced):
    def forward(self, tensors: list[Tensor]) -> Tensor:
        found: Tensor = self.module.user_vectors(self.sides(tensors)["user"])  # type: ignore[operator]
        return found


class _Logits(_Traced):
    def forward(self, tensors: list[Tensor]) -> Tensor:
        sides = self.sides(tensors)
        found: Tensor = self.module(sides["user"], sides["post"], sides["cross"])
        return found


def _side_and_array(name: str) -> tuple[Side, str]:
    side, _, array = name.partition(" ")
    return cast(Side, side), array


def _without_origin(model: Any) -> bytes:
    """The graph's bytes without names of source files, which differ from machine to machine."""
    graph = model.graph
    described = [model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in described:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    found: bytes = model.SerializeToString(deterministic=True)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operators that nobody asked for."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
