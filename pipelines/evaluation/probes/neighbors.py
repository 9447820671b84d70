"""Nearest neighbours in the space of the features."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.probes.base import Kind, OutOfFold, decide, require_features, responses_of
from pipelines.evaluation.splits import Folds

_QUERIES_AT_ONCE: Final = 2048
_SMALLEST_LENGTH: Final = 1e-12


@dataclass(frozen=True)
class NearestNeighbors:
    """The mean, or the vote, of the ``k`` training places whose features point the most in the same direction.

    Nothing is chosen, so that no fold needs to be looked at. A tie of votes goes to the class of the nearer neighbour.

    Attributes:
        k: Number of neighbours, fewer where there are fewer training places.
        name: Short name.
    """

    k: int = 10
    name: str = "knn"

    def out_of_fold(
        self, features: NDArray[Any], target: NDArray[Any], folds: Folds, kind: Kind, seed: int
    ) -> OutOfFold:
        """Predictions of each fold from the others; nothing is drawn.

        Raises:
            ValueError: As for `require_features`.
        """
        del seed
        require_features(features, target, folds)
        numbers = np.asarray(features, dtype=np.float32)
        length = np.linalg.norm(numbers, axis=1, keepdims=True)
        directions = numbers / np.maximum(length, _SMALLEST_LENGTH)
        responses = responses_of(target, kind)
        predicted = np.zeros_like(responses)
        for train, test in folds.train_test():
            neighbors = nearest(directions[test], directions[train], min(self.k, len(train)))
            predicted[test] = responses[train[neighbors]].mean(axis=1)
            if kind == "classification":
                predicted[test] += 1e-6 * responses[train[neighbors[:, 0]]]
        return OutOfFold(decide(predicted, kind))


def nearest(queries: NDArray[np.float32], directions: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Rows of the ``k`` directions with the largest products with each query, nearest first, shape (queries, k)."""
    parts = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        products = queries[start : start + _QUERIES_AT_ONCE] @ directions.T
        found = np.argpartition(-products, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(products, found, axis=1), axis=1, kind="stable")
        parts.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(parts)
