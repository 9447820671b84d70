"""How good predictions are: precision, recall and what sums them up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionRecall:
    """A precision-recall curve, from the highest threshold to the lowest.

    Attributes:
        threshold: Scores from which a prediction counts, falling.
        precision: Of those predicted, the share that is right.
        recall: Of what is there, the share that is found.
        num_positive: How many there are.
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    num_positive: int

    @property
    def average_precision(self) -> float:
        """Mean precision over recall: precisions weighted by the recall that each adds; NaN where nothing is there.

        As scikit-learn's ``average_precision_score``, where everything that is there gets a score.
        """
        if self.num_positive == 0:
            return float("nan")
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall at each threshold."""
        total = self.precision + self.recall
        return np.asarray(np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0))

    def f1_at(self, threshold: float) -> float:
        """F1 of predictions of at least a threshold; 0 where there are none, NaN where nothing is there."""
        if self.num_positive == 0:
            return float("nan")
        kept = np.flatnonzero(self.threshold >= threshold)
        return float(self.f1[kept[-1]]) if len(kept) else 0.0

    @property
    def best(self) -> tuple[float, float]:
        """The threshold of the highest F1, and that F1; NaN where nothing is there or nothing was predicted."""
        if self.num_positive == 0 or not len(self.threshold):
            return float("nan"), float("nan")
        index = int(np.argmax(self.f1))
        return float(self.threshold[index]), float(self.f1[index])

    @property
    def separating_threshold(self) -> float:
        """Midway between the threshold of the highest F1 and the next lower score; NaN as `best` is."""
        if np.isnan(self.best[0]):
            return float("nan")
        return float(self.threshold[np.argmax(self.f1) :][:2].mean())


def curve_of_matches(scores: NDArray[np.float64], is_right: NDArray[np.bool_], num_positive: int) -> PrecisionRecall:
    """The curve of predictions of which it is known whether they are right; equal scores count together."""
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], is_right[order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True)) if len(ordered) else np.zeros(0, dtype=np.int64)
    found = np.cumsum(right)[last]
    return PrecisionRecall(ordered[last], found / (last + 1), found / max(num_positive, 1), num_positive)


def curve_of_histograms(
    positives: NDArray[np.int64], negatives: NDArray[np.int64], edges: NDArray[np.float64]
) -> PrecisionRecall:
    """The curve of pixels counted by score.

    Args:
        positives: Number of pixels that are of the category, by bin of their score.
        negatives: Of the others.
        edges: Lower edges of the bins, rising; they are the thresholds.
    """
    found, wrong = positives[::-1].cumsum(), negatives[::-1].cumsum()
    total = found + wrong
    kept = (positives + negatives)[::-1] > 0
    number = int(positives.sum())
    return PrecisionRecall(
        edges[::-1][kept], (found / np.maximum(total, 1))[kept], (found / max(number, 1))[kept], number
    )


def match_points(
    predicted_m: NDArray[np.float64],
    scores: NDArray[np.float64],
    known_m: NDArray[np.float64],
    distance_m: float,
    is_difficult: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which predicted points are right: the best first, each takes the nearest known point that is free.

    Args:
        predicted_m: Shape (n, 2).
        scores: Shape (n,).
        known_m: Shape (k, 2), in the same plane.
        distance_m: Furthest that a pair may be apart.
        is_difficult: Known points that need not be found, shape (k,).

    Returns:
        Which are right, and which count at all: a prediction that takes a difficult point does not.
    """
    from scipy.spatial import cKDTree

    right, counts = np.zeros(len(predicted_m), dtype=np.bool_), np.ones(len(predicted_m), dtype=np.bool_)
    if not len(known_m) or not len(predicted_m):
        return right, counts
    difficult = np.zeros(len(known_m), dtype=np.bool_) if is_difficult is None else is_difficult
    near = cKDTree(known_m).query_ball_point(predicted_m, distance_m)
    free = np.ones(len(known_m), dtype=np.bool_)
    for index in np.argsort(-scores, kind="stable"):
        candidates = [each for each in near[index] if free[each]]
        if candidates:
            distances = np.linalg.norm(known_m[candidates] - predicted_m[index], axis=1)
            taken = candidates[int(np.lexsort((distances, difficult[candidates]))[0])]
            free[taken] = False
            right[index], counts[index] = not difficult[taken], not difficult[taken]
    return right, counts
