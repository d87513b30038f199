"""Approximate and exact nearest posts of a user vector, on disk with a manifest that names its model.

    index/<index_id>/  index.faiss  post_ids.npy  manifest.json  centre.npy where inverted
    index/champion.json             {"index_id": ...}, the index that serves

Shapes: B users, N posts, D dimensions, K posts wanted. Scores are inner products.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from core.errors import BundleError, MissingStageError
from core.files import content_hash, file_hash, sync_folder, write_atomically

EXACT_BELOW = 100_000
"""Posts up to which an exact scan is as fast as it needs to be (about 1 ms per 100,000 x 64 on one thread)."""

_faiss: Any = faiss  # for what its type hints describe wrongly
MAX_IVF_TRAINING_POSTS = 200_000
WIDTH_MULTIPLE = 16
"""fp16 vectors of this many entries or its multiples are compared with AVX-512, of half of it with AVX2."""
NUM_PROBES = 80
"""Lists searched, of about 2 sqrt(N): recall@500 is .99 or more from 100,000 to a million posts (decision 0016)."""


@dataclass(frozen=True)
class IndexManifest:
    """What an index holds and which retrieval bundle made its vectors."""

    index_id: str
    bundle_id: str
    count: int
    dim: int
    built_at: str  # ISO 8601 UTC; the platform's now up to which features were used
    factory: str
    num_probes: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class EligibleBits:
    """Which posts of an index may be found, one bit each in the order of its `post_ids`, the lowest first."""

    bits: NDArray[np.uint8]
    count: int
    """Bits that are set."""

    @staticmethod
    def of(eligible_N: NDArray[np.bool_]) -> "EligibleBits":
        return EligibleBits(np.packbits(eligible_N, bitorder="little"), int(np.count_nonzero(eligible_N)))

    def less(self, rows_M: NDArray[np.int64]) -> "EligibleBits":
        """The same without the posts at these rows of the index."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows_M >> 3, ~np.left_shift(np.uint8(1), (rows_M & 7).astype(np.uint8)))
        own = np.unique(rows_M)
        num_cleared = int(np.count_nonzero(self.bits[own >> 3] >> (own & 7).astype(np.uint8) & 1))
        return EligibleBits(bits, self.count - num_cleared)


class PostIndex:
    """A loaded index: `search` gives the nearest posts. `centre_D` is what was taken from every vector."""

    def __init__(
        self, manifest: IndexManifest, index: Any, post_ids: NDArray[np.int64], centre_D: NDArray[np.float32] | None
    ) -> None:
        self.manifest = manifest
        self.post_ids = post_ids
        self._index = index
        self._centre_D = centre_D

    def search(
        self, user_vectors_BD: NDArray[np.float32], k: int, eligible: NDArray[np.bool_] | EligibleBits | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Post ids [B, K] and scores [B, K], best first; fewer posts than K are padded with -1 and -inf.

        `eligible` [N], in the order of `post_ids`, leaves out the posts where it is False. An inverted file then
        scans more lists, as many more as posts are left out, all of them for a rare kind.
        """
        rows, scores = self.search_rows(user_vectors_BD, k, eligible)
        if not len(self.post_ids):
            return np.full_like(rows, -1), scores
        return np.where(rows >= 0, self.post_ids[np.maximum(rows, 0)], -1), scores

    def search_rows(
        self, user_vectors_BD: NDArray[np.float32], k: int, eligible: NDArray[np.bool_] | EligibleBits | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same with rows of `post_ids` in the place of post ids."""
        if user_vectors_BD.ndim != 2 or user_vectors_BD.shape[1] != self.manifest.dim:
            raise ValueError(f"user vectors have shape {user_vectors_BD.shape}; expected [B, {self.manifest.dim}]")
        if isinstance(eligible, np.ndarray):
            if eligible.shape != self.post_ids.shape or eligible.dtype != np.bool_:
                raise ValueError(
                    f"eligible is {eligible.dtype} {eligible.shape}; expected one bool per post, {self.post_ids.shape}"
                )
            eligible = EligibleBits.of(eligible)
        queries_BD = np.ascontiguousarray(user_vectors_BD, dtype=np.float32)
        scores, rows = self._index.search(padded(queries_BD, self._index.d), k, params=self._parameters(eligible))
        if self._centre_D is not None:
            scores += (queries_BD @ self._centre_D)[:, None]
        return rows, np.where(rows >= 0, scores, -np.inf).astype(np.float32)

    def with_added(self, post_ids: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> "PostIndex":
        """A copy in memory that holds more posts; an inverted file keeps its lists. This index stays as it is."""
        # A clone of a mapped index is mapped as well, and adding to it ends the process.
        index = faiss.deserialize_index(faiss.serialize_index(self._index))
        vectors = vectors_ND if self._centre_D is None else vectors_ND - self._centre_D
        index.add(padded(np.ascontiguousarray(vectors, dtype=np.float32), index.d))
        ids = np.concatenate([self.post_ids, np.asarray(post_ids, dtype=np.int64)])
        return PostIndex(replace(self.manifest, count=len(ids)), index, ids, self._centre_D)

    def _parameters(self, eligible: EligibleBits | None) -> Any:
        if eligible is None:
            return None
        selector = _faiss.IDSelectorBitmap(eligible.bits)
        if not self.manifest.num_probes:
            return _faiss.SearchParameters(sel=selector)
        share = max(eligible.count, 1) / len(self.post_ids)
        probes = min(self._index.nlist, int(np.ceil(self.manifest.num_probes / share)))
        return _faiss.SearchParametersIVF(sel=selector, nprobe=probes)


def write_index(
    root: Path,
    post_ids: NDArray[np.int64],
    vectors_ND: NDArray[np.float32],
    bundle_id: str,
    built_at: datetime,
    exact_below: int = EXACT_BELOW,
) -> IndexManifest:
    """The manifest of a new index below `root`, complete on disk; `publish_index` makes it serve."""
    count, dim = vectors_ND.shape
    if len(post_ids) != count or len(np.unique(post_ids)) != count:
        raise ValueError(f"{len(post_ids)} post ids for {count} vectors; expected one distinct id each")
    if not np.isfinite(vectors_ND).all():
        bad = post_ids[~np.isfinite(vectors_ND).all(axis=1)]
        raise BundleError(f"bundle {bundle_id} gives {len(bad)} posts a vector that is not finite, such as {bad[:3]}")
    index, factory, num_probes, centre_D = _build(vectors_ND, exact_below)
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root, prefix=".index."))
    try:
        faiss.write_index(index, str(folder / "index.faiss"))
        np.save(folder / "post_ids.npy", np.asarray(post_ids, dtype=np.int64), allow_pickle=False)
        if centre_D is not None:
            np.save(folder / "centre.npy", centre_D, allow_pickle=False)
        sums = {f.name: file_hash(f) for f in sorted(folder.iterdir())}
        index_id = content_hash([bundle_id, built_at.isoformat(), *sums.values()])
        manifest = IndexManifest(index_id, bundle_id, count, dim, built_at.isoformat(), factory, num_probes, sums)
        write_atomically(folder / "manifest.json", json.dumps(asdict(manifest), indent=2))
        final = root / index_id
        if final.exists():
            shutil.rmtree(folder)
        else:
            folder.chmod(0o755)  # mkdtemp makes it private
            folder.rename(final)
            sync_folder(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def _build(vectors_ND: NDArray[np.float32], exact_below: int) -> tuple[Any, str, int, NDArray[np.float32] | None]:
    """The index, its factory, probes and what was taken from every vector."""
    count, dim = vectors_ND.shape
    vectors = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    if count < exact_below:
        index = faiss.IndexFlatIP(dim)
        index.add(vectors)
        return index, "Flat", 0, None
    lists = int(2 ** np.round(np.log2(2 * np.sqrt(count))))
    num_probes = min(lists, NUM_PROBES)
    # What all posts have in common, their mean bias above all, ranks nothing, yet would decide the lists.
    centre_D = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _inverted_file(vectors - centre_D, lists, num_probes), f"IVF{lists},SQfp16", num_probes, centre_D


def _inverted_file(vectors_ND: NDArray[np.float32], lists: int, num_probes: int) -> Any:
    """Lists of posts that are near each other (by distance), searched by the inner product with their middle."""
    count, dim = vectors_ND.shape
    # A tower's vector and its bias are an odd number, for which FAISS has no vector instructions.
    dim = -(-dim // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    vectors_ND = padded(vectors_ND, dim)
    middles = faiss.IndexFlatL2(dim)
    index = faiss.IndexIVFScalarQuantizer(
        middles, dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = False
    index.train(vectors_ND[np.linspace(0, count - 1, min(count, MAX_IVF_TRAINING_POSTS)).astype(np.int64)])
    index.add(vectors_ND)
    by_product = _faiss.IndexFlatIP(dim)
    by_product.add(middles.reconstruct_n(0, lists))
    by_product.this.disown()
    index.quantizer, index.own_fields = by_product, True
    index.nprobe = num_probes
    return index


def publish_index(root: Path, index_id: str) -> None:
    """Makes `index_id` the one that serves, in one step, and keeps the name of the one before it."""
    pointer = root / "champion.json"
    write_atomically(
        pointer, json.dumps({"index_id": index_id, "previous": previous_name(pointer, "index_id", index_id)})
    )


def previous_name(pointer: Path, key: str, name: str) -> str | None:
    """What `pointer` named before `name`, None where it named nothing else."""
    try:
        named = json.loads(pointer.read_text())
        before = named[key] if named[key] != name else named.get("previous")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if before is None else str(before)


def champion_index(root: Path) -> Path:
    """The folder of the index that serves. Raises MissingStageError before one was built."""
    pointer = root / "champion.json"
    if not pointer.exists():
        raise MissingStageError("index", pointer, "python -m training index")
    try:
        return root / str(json.loads(pointer.read_text())["index_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{pointer} names no index ({error!r}); run `python -m training index`") from error


def load_index(path: Path, bundle_id: str) -> PostIndex:
    """The index at `path`. Raises BundleError unless it is whole, unaltered and made by bundle `bundle_id`."""
    try:
        manifest = IndexManifest(**json.loads((path / "manifest.json").read_text()))
        for name, expected in manifest.sha256.items():
            if (found := file_hash(path / name)) != expected:
                raise BundleError(
                    f"{path / name} has SHA-256 {found[:12]}…, manifest says {expected[:12]}…; rebuild the index"
                )
        if manifest.bundle_id != bundle_id:
            raise BundleError(
                f"index {manifest.index_id} was made by bundle {manifest.bundle_id}, the loaded retrieval model is "
                f"{bundle_id}; run `python -m training index`"
            )
        post_ids = np.asarray(
            np.load(path / "post_ids.npy", mmap_mode="r" if manifest.count else None, allow_pickle=False)
        )
        has_centre = "centre.npy" in manifest.sha256
        centre_D = np.load(path / "centre.npy", allow_pickle=False) if has_centre else None
        index = _mapped(path / "index.faiss")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise BundleError(f"index at {path} cannot be read ({error}); run `python -m training index`") from error
    if index.ntotal != manifest.count or len(post_ids) != manifest.count or index.d < manifest.dim:
        raise BundleError(
            f"index {manifest.index_id} holds {index.ntotal} posts of {index.d}, manifest says {manifest.count}"
        )
    return PostIndex(manifest, index, post_ids, centre_D)


def padded(vectors_ND: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The vectors with zeros behind, [N, dim]; inner products and distances stay as they are."""
    missing = dim - vectors_ND.shape[1]
    return np.pad(vectors_ND, ((0, 0), (0, missing))) if missing else vectors_ND


def _mapped(path: Path) -> Any:
    """The index with its vectors left in the file, which all processes share; it cannot be added to."""
    return _faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC)
