"""Nearest neighbours in the space of the features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.probes.base import OutOfFold, Probe, Target, decide, require_features, responses_of
from pipelines.evaluation.splits import Folds

_QUERIES_AT_ONCE: Final = 2048
_SMALLEST_LENGTH: Final = 1e-12


@dataclass(frozen=True)
class NearestNeighbors(Probe):
    """The mean, or the vote, of the ``k`` training places whose features point the most in the same direction.

    Nothing is chosen, so that no fold needs to be looked at. A tie of votes goes to the class of the nearer neighbour.

    Attributes:
        k: Number of neighbours, fewer where there are fewer training places.
        name: Short name.
    """

    k: int = 10
    name: str = "knn"

    def out_of_fold_each(
        self, features: NDArray[Any], targets: Sequence[Target], folds: Folds, seed: int
    ) -> list[OutOfFold]:
        """Predictions of each fold from the others; nothing is drawn.

        Raises:
            ValueError: As for `require_features`.
        """
        del seed
        require_features(features, targets, folds)
        numbers = np.asarray(features, dtype=np.float32)
        length = np.linalg.norm(numbers, axis=1, keepdims=True)
        directions = numbers / np.maximum(length, _SMALLEST_LENGTH)
        responses = [responses_of(target) for target in targets]
        predicted = [np.zeros_like(each) for each in responses]
        for train, test in folds.train_test():
            neighbors = train[nearest(directions[test], directions[train], min(self.k, len(train)))]
            for target, truth, found in zip(targets, responses, predicted, strict=True):
                found[test] = truth[neighbors].mean(axis=1)
                if target.kind == "classification":
                    found[test] += 1e-6 * truth[neighbors[:, 0]]
        return [OutOfFold(decide(found, target.kind)) for found, target in zip(predicted, targets, strict=True)]


def nearest(queries: NDArray[np.float32], directions: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Rows of the ``k`` directions with the largest products with each query, nearest first, shape (queries, k)."""
    import torch

    against = torch.from_numpy(directions).T
    parts = torch.split(torch.from_numpy(queries), _QUERIES_AT_ONCE)
    return np.concatenate([torch.topk(part @ against, k, dim=1).indices.numpy() for part in parts])
