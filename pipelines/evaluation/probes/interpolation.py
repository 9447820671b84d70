"""What the neighbourhood alone tells: the baseline that needs no features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.probes.base import OutOfFold, Probe, Target, decide, responses_of
from pipelines.evaluation.sphere import great_circle_km, unit_vectors
from pipelines.evaluation.splits import Folds

_SAME_PLACE_KM = 1e-3


@dataclass(frozen=True)
class InverseDistance(Probe):
    """Inverse-distance weighting (Shepard 1968) of the nearest training places along great circles.

    Attributes:
        k: Number of places, fewer where there are fewer.
        power: Of the distance.
        name: Short name, of the probe and of the model.
    """

    k: int = 12
    power: float = 2.0
    name: str = "idw"

    def out_of_fold_each(
        self, features: NDArray[np.float64], targets: Sequence[Target], folds: Folds, seed: int
    ) -> list[OutOfFold]:
        """Predictions of each fold from the others; ``features`` are lonlat_deg, nothing is drawn."""
        from scipy.spatial import cKDTree

        del seed
        vectors, responses = unit_vectors(features), [responses_of(target) for target in targets]
        predicted = [np.zeros_like(each) for each in responses]
        for train, test in folds.train_test():
            chord, neighbors = cKDTree(vectors[train]).query(vectors[test], k=min(self.k, len(train)))
            chord, neighbors = (each.reshape(len(test), -1) for each in (chord, neighbors))
            weights = 1.0 / np.maximum(great_circle_km(chord), _SAME_PLACE_KM) ** self.power
            weights /= weights.sum(axis=1, keepdims=True)
            for truth, found in zip(responses, predicted, strict=True):
                found[test] = (truth[train[neighbors]] * weights[:, :, None]).sum(axis=1)
        return [OutOfFold(decide(found, target.kind)) for found, target in zip(predicted, targets, strict=True)]
