"""Vectors of posts that came after the index: made by the bundles' post towers from what is known of the post."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from core.errors import VitrineError
from core.logs import logger
from feature_repo.columns import Columns, null_columns
from serving.funnel.features import FunnelFeatures
from serving.live.catalogue import LiveCatalogue
from serving.live.reader import LiveReader


@runtime_checkable
class PostTower(Protocol):
    """The post side of a two-tower model."""

    bundle_id: str

    def post_vectors(self, columns: Columns) -> NDArray[np.float32]: ...


COMPLETED = 5_000
"""Most posts that get their vectors at once because an index from before the snapshot lacks them, newest first."""
BATCH = 1_000


class VectorSink(Protocol):
    """Takes vectors by catalogue row."""

    def lacking(self) -> NDArray[np.int64]:
        """Rows of the catalogue without a vector."""
        ...

    def put(self, rows: NDArray[np.int64], vectors_ND: NDArray[np.float32]) -> None: ...


class VectorKeeper:
    """Gives every written post its vectors. `towers` are pairs of who makes them and who takes them."""

    def __init__(
        self,
        towers: Sequence[tuple[PostTower, VectorSink]],
        features: Sequence[FunnelFeatures],
        reader: LiveReader,
        catalogue: LiveCatalogue,
    ) -> None:
        self.serve(towers, features)
        self._reader = reader
        self._catalogue = catalogue

    def serve(self, towers: Sequence[tuple[PostTower, VectorSink]], features: Sequence[FunnelFeatures]) -> None:
        """From now on vectors are for these; `features` are those of all funnels that serve."""
        self._towers, self._features = tuple(towers), tuple(features)

    def complete(self) -> None:
        """Makes vectors of the newest posts of the snapshot that came after an index or were merged into its copy."""
        for tower, sink in self._towers:
            rows = sink.lacking()
            rows = rows[self._catalogue.is_recommendable[rows] & ~self._catalogue.was_written(rows)]
            rows = rows[np.argsort(-self._catalogue.created_at[rows], kind="stable")][:COMPLETED]
            for start in range(0, len(rows), BATCH):
                some = rows[start : start + BATCH]
                self._put(tower, sink, some, self._columns(some))

    def write(self, rows: NDArray[np.int64]) -> None:
        """Makes vectors of the posts at `rows` that are still there; features of before are read anew."""
        for features in self._features:
            features.drop_posts(self._catalogue.post_ids[rows])
        rows = rows[self._catalogue.is_recommendable[rows]]
        if not len(rows) or not self._towers:
            return
        columns = self._columns(rows)
        for tower, sink in self._towers:
            self._put(tower, sink, rows, columns)

    @staticmethod
    def _put(tower: PostTower, sink: VectorSink, rows: NDArray[np.int64], columns: Columns) -> None:
        try:
            vectors = np.asarray(tower.post_vectors(columns), dtype=np.float32)
        except (ValueError, KeyError) as error:
            logger("serving").warning("no vectors for new posts", bundle=tower.bundle_id, reason=str(error))
            return
        is_finite = np.isfinite(vectors).all(axis=1)
        if not is_finite.all():
            logger("serving").warning(
                "vectors of new posts are not finite", bundle=tower.bundle_id, posts=int((~is_finite).sum())
            )
        sink.put(rows[is_finite], vectors[is_finite])

    def _columns(self, rows: NDArray[np.int64]) -> Columns:
        """What is known of the posts: stored counters where the store answers, content and nulls where not."""
        try:
            return self._features[0].post_columns(rows, 0.0)
        except VitrineError:
            columns = null_columns(self._features[0].post_names, len(rows))
            return self._reader.with_profiles(columns, self._catalogue.post_ids[rows])
