"""Bundles: the deployable unit of a model, a folder that is checked before it is believed.

    <bundle_id>/manifest.json         kind, spec, config, heads, calibrators, metrics, cost, bounds, versions, checksum
    <bundle_id>/weights.safetensors   weights under the names of the inference network
    <bundle_id>/spec.safetensors      arrays of the spec, where it has any: who owns which row, codebooks
    <bundle_id>/graph.onnx            the network for one user (models/graph.py), where one was exported

The bundle id is a hash over all files' content. Nothing here unpickles, and nothing here needs TorchRec.
Legend: B users, N posts, D + 1 entries of a vector, H heads.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from core.errors import BundleError
from core.files import content_hash, file_hash, sync_folder, write_atomically
from models.calibration import Calibrator, apply_calibrators
from models.cost import Cost, cost_of, with_few_rows
from models.embeddings import export_state
from models.encode import EncodedSide, encode
from models.features import Columns, FeatureSpec
from models.first_stage import FirstStageConfig, build_first_stage
from models.foundation import FoundationModel, config_from_json
from models.graph import Graph, export_graph
from models.metrics import finite
from models.second_stage import SecondStage, SecondStageConfig
from models.towers import TowerConfig, TwoTower

BundleKind = Literal["retrieval", "first_stage", "second_stage", "foundation"]
KINDS: tuple[BundleKind, ...] = ("retrieval", "first_stage", "second_stage", "foundation")
FORMAT_VERSION = 1
MANIFEST, WEIGHTS, SPEC_ARRAYS, GRAPH = "manifest.json", "weights.safetensors", "spec.safetensors", "graph.onnx"


@dataclass(frozen=True)
class _VectorBundle:
    """A pair of towers ready to serve; scores are inner products of the two sides' vectors."""

    bundle_id: str
    spec: FeatureSpec
    manifest: Mapping[str, Any]
    module: TwoTower
    graph: Graph | None = None

    @property
    def dim(self) -> int:
        """Entries of a vector, the folded bias included."""
        return self.module.user_tower.dim + 1

    @torch.inference_mode()
    def user_vectors(self, columns: Columns) -> NDArray[np.float32]:
        """[B, D + 1] float32."""
        user = encode(self.spec, "user", columns)
        if self.graph is not None and user.num_rows == 1:
            return self.graph.run({"user": user.arrays()})
        vectors: NDArray[np.float32] = self.module.user_vectors(user).numpy()
        return vectors

    @torch.inference_mode()
    def post_vectors(self, columns: Columns) -> NDArray[np.float32]:
        """[N, D + 1] float32."""
        vectors: NDArray[np.float32] = self.module.post_vectors(encode(self.spec, "post", columns)).numpy()
        return vectors


class RetrievalBundle(_VectorBundle):
    """Two-tower retrieval."""


class FirstStageBundle(_VectorBundle):
    """PSelect two-tower; the score is its logit up to an increasing affine map."""


@dataclass(frozen=True)
class SecondStageBundle:
    """The calibrated multi-task ranker."""

    bundle_id: str
    spec: FeatureSpec
    manifest: Mapping[str, Any]
    module: SecondStage
    heads: tuple[str, ...]
    calibrators: tuple[Calibrator, ...]
    graph: Graph | None = None

    def logits(self, user: Columns, post: Columns, cross: Columns) -> NDArray[np.float32]:
        """Uncalibrated logits [N, H] of one user (or N) against N posts."""
        return self._logits(user, encode(self.spec, "post", post).arrays(), cross)

    def probabilities(self, user: Columns, post: Columns, cross: Columns) -> NDArray[np.float64]:
        """Calibrated probabilities [N, H] of one user (or N) against N posts."""
        return apply_calibrators(self.logits(user, post, cross), self.calibrators)

    def encoded_posts(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """What the network reads of N posts, as arrays of N rows that may be kept and taken in any order."""
        return encode(self.spec, "post", columns).arrays()

    def probabilities_of(self, user: Columns, posts: Mapping[str, NDArray[Any]], cross: Columns) -> NDArray[np.float64]:
        """The same as `probabilities` for posts that `encoded_posts` has read."""
        return apply_calibrators(self._logits(user, posts, cross), self.calibrators)

    @torch.inference_mode()
    def _logits(self, user: Columns, posts: Mapping[str, NDArray[Any]], cross: Columns) -> NDArray[np.float32]:
        of_user, of_pairs = encode(self.spec, "user", user), encode(self.spec, "cross", cross)
        if self.graph is not None and of_user.num_rows == 1 and of_pairs.num_rows > 1:
            return self.graph.run({"user": of_user.arrays(), "post": posts, "cross": of_pairs.arrays()})
        found: NDArray[np.float32] = self.module(of_user, EncodedSide.of_arrays(posts), of_pairs).numpy()
        return found


@dataclass(frozen=True)
class FoundationBundle:
    """The foundation user model; what it makes is exported as feature views."""

    bundle_id: str
    spec: FeatureSpec
    manifest: Mapping[str, Any]
    module: FoundationModel


Bundle = RetrievalBundle | FirstStageBundle | SecondStageBundle | FoundationBundle


def save_bundle(
    parent: Path,
    kind: BundleKind,
    module: nn.Module,
    spec: FeatureSpec,
    config: Any,
    heads: Sequence[str],
    calibrators: Sequence[Calibrator],
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    bounds: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    has_graph: bool = False,
) -> str:
    """Writes `parent/<bundle_id>/` and gives the bundle id: a hash of weights and manifest.

    `config` is the network's frozen dataclass; `heads` are heads or tasks; `bounds` are the legal values
    of inputs (`{feature: {min, max}}`) that serving checks; `has_graph` adds what makes serving fast. Equal content
    gives the same id, and a folder that is already there is kept. The write is atomic.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if not is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"config is a {type(config).__name__}, expected the network's dataclass")
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".bundle."))
    try:
        write_atomically(temporary / WEIGHTS, save(export_state(module)))
        manifest = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "spec": spec.to_json(),
            "config": asdict(config),
            "heads": list(heads),
            "calibrators": [c.to_json() for c in calibrators],
            "metrics": finite(metrics),
            "cost": asdict(_cost(kind, spec, asdict(config), len(heads))),
            "bounds": {name: dict(bound) for name, bound in (bounds or {}).items()},
            "versions": dict(versions) | {"torch": torch.__version__.split("+")[0]},
            "weights_sha256": file_hash(temporary / WEIGHTS),
        }
        arrays = spec.arrays()
        if arrays:
            tensors = {name: torch.from_numpy(np.array(values)) for name, values in sorted(arrays.items())}
            write_atomically(temporary / SPEC_ARRAYS, save(tensors))
            manifest["spec_sha256"] = file_hash(temporary / SPEC_ARRAYS)
        if has_graph:
            manifest |= _write_graph(temporary, kind, spec, asdict(config), len(heads))
        bundle_id = _manifest_hash(manifest)
        write_atomically(
            temporary / MANIFEST, json.dumps({"bundle_id": bundle_id, **manifest}, indent=1, sort_keys=True)
        )
        final = parent / bundle_id
        if not final.exists():
            temporary.chmod(0o755)
            temporary.rename(final)
            sync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle_id


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    covered = {name: value for name, value in manifest.items() if name != "bundle_id"}
    return content_hash([json.dumps(covered, sort_keys=True, separators=(",", ":"))], 16)


def read_manifest(path: Path) -> dict[str, Any]:
    """The checked manifest of the bundle folder `path`. Raises BundleError."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise BundleError(f"no bundle at {path}: {MANIFEST} is missing; train the model or correct the path") from error
    except (ValueError, OSError) as error:
        raise BundleError(f"bundle {path}: {MANIFEST} is unreadable ({error}); restore it or train again") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(f"bundle {path}: format is not {FORMAT_VERSION}; train again with this version")
    if _manifest_hash(manifest) != manifest.get("bundle_id"):
        raise BundleError(f"bundle {path}: {MANIFEST} was altered, its hash is not its id; restore it or train again")
    return manifest


def _dataclass_of(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass from decoded JSON: lists become tuples."""
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{cls.__name__} knows no {', '.join(unknown)}")
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _build(
    kind: str, spec: FeatureSpec, config: Mapping[str, Any], num_heads: int
) -> SecondStage | TwoTower | FoundationModel:
    """The inference network of one kind, weights not yet loaded."""
    if kind == "second_stage":
        return SecondStage(spec, _dataclass_of(SecondStageConfig, config), is_training=False)
    if kind == "first_stage":
        towers = _dataclass_of(TowerConfig, config["towers"])
        return build_first_stage(spec, _dataclass_of(FirstStageConfig, {**config, "towers": towers}), is_training=False)
    if kind == "retrieval":
        return TwoTower(spec, _dataclass_of(TowerConfig, config), num_heads, is_training=False)
    if kind == "foundation":
        return FoundationModel(spec, config_from_json(config), is_training=False)
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")


def _cost(kind: BundleKind, spec: FeatureSpec, config: Mapping[str, Any], num_heads: int) -> Cost:
    """Of the network that serves, built once more with small tables."""
    with torch.random.fork_rng(devices=[]):
        module = _build(kind, with_few_rows(spec), config, num_heads).eval()
    if isinstance(module, SecondStage):
        return cost_of(module, spec, module)
    if isinstance(module, FoundationModel):
        return cost_of(module, spec, lambda user, post, _: module.score(user, post))
    return cost_of(module, spec, lambda user, post, _: module.user_vectors(user) @ module.post_vectors(post).T)


def _write_graph(
    folder: Path, kind: BundleKind, spec: FeatureSpec, config: Mapping[str, Any], num_heads: int
) -> dict[str, str]:
    """Exports the network whose weights lie in `folder`; its checksum for the manifest, nothing where it has none."""
    with torch.random.fork_rng(devices=[]):
        module = _build(kind, spec, config, num_heads)
    if isinstance(module, FoundationModel):
        return {}
    module.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    graph = export_graph(module.requires_grad_(False).eval(), spec)
    if graph is None:
        return {}
    write_atomically(folder / GRAPH, graph)
    return {"graph_sha256": file_hash(folder / GRAPH)}


def _graph(path: Path, manifest: Mapping[str, Any]) -> Graph | None:
    if "graph_sha256" not in manifest:
        return None
    # Read once, so that what was checked is what runs.
    try:
        content = (path / GRAPH).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {path}: {GRAPH} cannot be read ({error}); restore it or train again") from error
    if hashlib.sha256(content).hexdigest() != manifest["graph_sha256"]:
        raise BundleError(f"bundle {path}: {GRAPH} does not match its checksum; restore it or train again")
    return Graph(content)


def _checked_file(path: Path, name: str, sha256: str) -> Path:
    file = path / name
    if not file.exists():
        raise BundleError(f"bundle {path}: {name} is missing; restore it or train again")
    if file_hash(file) != sha256:
        raise BundleError(f"bundle {path}: {name} does not match its checksum; restore it or train again")
    return file


def _spec_arrays(path: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Arrays of the spec, mapped from their file."""
    if "spec_sha256" not in manifest:
        return {}
    file = _checked_file(path, SPEC_ARRAYS, manifest["spec_sha256"])
    return {name: tensor.numpy() for name, tensor in load_file(file).items()}


def load_bundle(path: Path) -> Bundle:
    """The bundle in folder `path`, checked, in evaluation mode. Raises BundleError."""
    manifest = read_manifest(path)
    weights = _checked_file(path, WEIGHTS, manifest["weights_sha256"])
    kind, bundle_id = manifest["kind"], manifest["bundle_id"]
    try:
        spec = FeatureSpec.from_json(manifest["spec"], _spec_arrays(path, manifest))
        module = _build(kind, spec, manifest["config"], len(manifest["heads"]))
        module.load_state_dict(load_file(weights), strict=True)
        calibrators = tuple(Calibrator.from_json(c) for c in manifest["calibrators"])
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"bundle {path}: contents do not make a {kind} model ({error}); train again") from error
    module.requires_grad_(False).eval()
    graph = _graph(path, manifest)
    if isinstance(module, SecondStage):
        return SecondStageBundle(bundle_id, spec, manifest, module, tuple(manifest["heads"]), calibrators, graph)
    if isinstance(module, FoundationModel):
        return FoundationBundle(bundle_id, spec, manifest, module)
    return (RetrievalBundle if kind == "retrieval" else FirstStageBundle)(bundle_id, spec, manifest, module, graph)
