"""What the models must beat: popularity, item-to-item co-occurrence, LightGBM on the same rows and columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, InputError
from models.features import Columns
from training.examples import Examples
from training.factorisation import factorise, fold_in


def popularity_scores(
    post_ids: NDArray[np.int64], values: NDArray[np.float32], catalogue_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Sum of `values` of the positives of each catalogue post, [P]; 0 for posts never engaged with."""
    order = np.argsort(catalogue_ids)
    place = np.searchsorted(catalogue_ids[order], post_ids).clip(max=max(len(order) - 1, 0))
    is_known = catalogue_ids[order][place] == post_ids if len(order) else np.zeros(len(post_ids), dtype=bool)
    scores = np.zeros(len(catalogue_ids), dtype=np.float32)
    np.add.at(scores, order[place[is_known]], values[is_known])
    return scores


class ItemToItem:
    """Posts engaged with by the same users: cosine of their user sets, from training positives only."""

    def __init__(
        self,
        user_ids: NDArray[np.int64],
        post_ids: NDArray[np.int64],
        catalogue_ids: NDArray[np.int64],
        num_neighbours: int = 100,
    ) -> None:
        from scipy import sparse  # type: ignore[import-untyped]

        self.catalogue_ids = np.sort(catalogue_ids)
        is_known = np.isin(post_ids, self.catalogue_ids)
        users = np.unique(user_ids[is_known], return_inverse=True)[1]
        posts = np.searchsorted(self.catalogue_ids, post_ids[is_known])
        shape = (int(users.max()) + 1 if len(users) else 1, len(self.catalogue_ids))
        matrix_UP = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, posts)), shape=shape)
        matrix_UP.data[:] = 1.0
        norms = np.sqrt(np.asarray(matrix_UP.sum(axis=0)).ravel())
        scaled_UP = matrix_UP @ sparse.diags(1.0 / np.maximum(norms, 1.0))
        similarity_PP = (scaled_UP.T @ scaled_UP).tocsr()
        similarity_PP.setdiag(0.0)
        similarity_PP.eliminate_zeros()
        self._similarity_PP = keep_top(similarity_PP, num_neighbours)

    def scores(self, history_post_ids_BL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sum of similarities to the posts of each user's history, [B, P] in order of `catalogue_ids`; -1 pads."""
        from scipy import sparse

        rows, places = np.nonzero(np.isin(history_post_ids_BL, self.catalogue_ids))
        posts = np.searchsorted(self.catalogue_ids, history_post_ids_BL[rows, places])
        shape = (len(history_post_ids_BL), len(self.catalogue_ids))
        history_BP = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, posts)), shape=shape)
        scores: NDArray[np.float32] = (history_BP @ self._similarity_PP).toarray().astype(np.float32)
        return scores


class Factorised:
    """Weighted factorisation of training positives, posts described by codes too; users are folded in by history."""

    def __init__(
        self,
        user_ids: NDArray[np.int64],
        post_ids: NDArray[np.int64],
        catalogue_ids: NDArray[np.int64],
        post_codes: Sequence[NDArray[np.int64]],
    ) -> None:
        """`post_codes`: side features of the catalogue's posts, ids [P] each, -1 null."""
        order = np.argsort(catalogue_ids)
        self.catalogue_ids = catalogue_ids[order]
        is_known = np.isin(post_ids, self.catalogue_ids)
        users = np.unique(user_ids[is_known], return_inverse=True)[1]
        posts = np.searchsorted(self.catalogue_ids, post_ids[is_known])
        dense = [np.unique(codes[order], return_inverse=True)[1] for codes in post_codes]
        codes = [np.where(of[order] < 0, -1, places) for of, places in zip(post_codes, dense, strict=True)]
        num_users = int(users.max()) + 1 if len(users) else 1
        _, self._posts_PD = factorise(users, posts, num_users, len(catalogue_ids), post_codes=codes)

    def scores(self, history_post_ids_BL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inner products of each user's history's vector and all posts, [B, P] in order of `catalogue_ids`; -1 pads."""
        rows, places = np.nonzero(np.isin(history_post_ids_BL, self.catalogue_ids))
        posts = np.searchsorted(self.catalogue_ids, history_post_ids_BL[rows, places])
        scores: NDArray[np.float32] = fold_in(rows, posts, len(history_post_ids_BL), self._posts_PD) @ self._posts_PD.T
        return scores


def keep_top(matrix: Any, k: int) -> Any:
    """The sparse CSR matrix with only the k largest entries of each row."""
    from scipy import sparse

    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[rank < k]
    return sparse.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)


@dataclass(frozen=True)
class LightGbmConfig:
    """Settings of the tree baseline; chosen once on the world's validation part."""

    learning_rate: float = 0.05
    num_leaves: int = 63
    min_data_in_leaf: int = 50
    feature_fraction: float = 0.5
    max_rounds: int = 600
    stopping_rounds: int = 30
    is_weighted: bool = False
    """Whether the training rows' weights count."""
    num_threads: int = 2
    seed: int = 0


class Matrix:
    """Turns Columns into one float matrix; text gets its code among the training rows, unknown text NaN."""

    def __init__(self, columns: Columns, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in columns]
        if missing:
            raise InputError(f"training set lacks columns {missing[:5]}; run `python -m training sets`")
        self._names = list(names)
        self._codes = {
            name: {text: code for code, text in enumerate(sorted(set(columns[name].tolist())))}
            for name in names
            if columns[name].dtype == object
        }
        self.feature_names: list[str] = []
        self.categorical: list[int] = []
        for name in names:
            if name in self._codes:
                self.categorical.append(len(self.feature_names))
            width = 1 if columns[name].ndim == 1 else columns[name].shape[1]
            self.feature_names += [name] if columns[name].ndim == 1 else [f"{name}_{i}" for i in range(width)]

    def of(self, columns: Columns) -> NDArray[np.float32]:
        """Matrix [N, F] of `columns`."""
        parts = []
        for name in self._names:
            values = columns[name]
            if name in self._codes:
                texts, inverse = np.unique(values.astype(str), return_inverse=True)
                values = np.array([self._codes[name].get(text, np.nan) for text in texts.tolist()], dtype=np.float32)[
                    inverse
                ]
            parts.append(np.asarray(values, dtype=np.float32).reshape(len(values), -1))
        return np.concatenate(parts, axis=1)


def lightgbm_columns(columns: Columns) -> list[str]:
    """Columns a tree can use: all but the sequences, which reach it through the cross features that sum them up."""
    return sorted(name for name in columns if not name.startswith(("user_history__history_", "candidate__")))


def fit_lightgbm(
    train: Examples, validation: Examples | None, head: int, names: Sequence[str], config: LightGbmConfig
) -> "LightGbmModel":
    """A boosted-tree model of one head, stopped early on `validation`, or of all `max_rounds` trees without one.

    Raises ConfigError without lightgbm.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError(
            "the LightGBM baseline needs lightgbm; install the dev extra: pip install -e '.[dev]'"
        ) from error
    matrix = Matrix(train.columns, names)
    keep = ~np.isnan(train.labels[:, head])
    options = {"feature_name": matrix.feature_names, "categorical_feature": matrix.categorical, "free_raw_data": True}
    weights = train.weights[keep] if config.is_weighted and train.weights is not None else None
    rows = lightgbm.Dataset(matrix.of(train.columns)[keep], train.labels[keep, head], weight=weights, **options)
    stopped: dict[str, Any] = {}
    if validation is not None:
        check = ~np.isnan(validation.labels[:, head])
        seen = lightgbm.Dataset(matrix.of(validation.columns)[check], validation.labels[check, head], reference=rows)
        stopped = {
            "valid_sets": [seen],
            "callbacks": [lightgbm.early_stopping(config.stopping_rounds, verbose=False)],
        }
    params = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "feature_fraction": config.feature_fraction,
        "num_threads": config.num_threads,
        "seed": config.seed,
        "deterministic": True,
        "verbosity": -1,
    }
    return LightGbmModel(matrix, lightgbm.train(params, rows, num_boost_round=config.max_rounds, **stopped))


@dataclass(frozen=True)
class LightGbmModel:
    """A fitted tree model of one head."""

    matrix: Matrix
    booster: Any

    @property
    def num_trees(self) -> int:
        """As early stopping left them."""
        return int(self.booster.best_iteration or self.booster.num_trees())

    def probabilities(self, columns: Columns) -> NDArray[np.float64]:
        """Probability of the head per row, [N]."""
        predicted: NDArray[np.float64] = self.booster.predict(self.matrix.of(columns))
        return predicted
