"""Measures of class probabilities: F1, average precision, confusion and calibration."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.intervals import CONFIDENCE, NUM_RESAMPLES

NUM_CALIBRATION_BINS: Final = 10


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % bounds when whole blocks are drawn with replacement."""

    value: float
    lower: float
    upper: float


def classification_metrics(probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> dict[str, float]:
    """accuracy, macro_f1 (over classes that are there or predicted), mean_average_precision, calibration_error.

    Args:
        probabilities: Shape (n, classes), rows sum to 1.
        truth: Class of each, shape (n,).
    """
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(truth, predicted, probabilities.shape[1])
    counted = matrix.sum(axis=0) + matrix.sum(axis=1)
    f1 = 2 * np.diag(matrix) / np.maximum(counted, 1)
    precisions = [average_precision(truth == each, probabilities[:, each]) for each in np.unique(truth)]
    return {
        "accuracy": float(np.diag(matrix).sum() / max(int(matrix.sum()), 1)),
        "macro_f1": float(f1[counted > 0].mean()),
        "mean_average_precision": float(np.mean(precisions)),
        "calibration_error": calibration_error(probabilities, truth),
    }


def confusion_matrix(truth: NDArray[np.int64], predicted: NDArray[np.intp], num_classes: int) -> NDArray[np.int64]:
    """Number of patches by true class (rows) and predicted class (columns)."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def average_precision(
    relevant: NDArray[np.bool_], score: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> float:
    """Mean over the relevant of the precision at their score; equal scores share one precision. NaN without any.

    Args:
        relevant: Which are relevant, shape (n,).
        score: Larger is more relevant, shape (n,).
        weight: How often each counts, shape (n,); None counts each once.
    """
    counted = np.ones(len(score)) if weight is None else np.asarray(weight, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    hits, all_ = np.cumsum((relevant * counted)[order]), np.cumsum(counted[order])
    if not len(score) or hits[-1] == 0:
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    gained = np.diff(hits[ends], prepend=0.0)
    precision = np.divide(hits[ends], all_[ends], out=np.zeros(len(ends)), where=all_[ends] > 0)
    return float((gained * precision).sum() / hits[-1])


def calibration_error(
    probabilities: NDArray[np.floating], truth: NDArray[np.int64], num_bins: int = NUM_CALIBRATION_BINS
) -> float:
    """Expected calibration error of the largest probability: mean gap of confidence and accuracy over equal bins.

    Source: Guo et al. (2017), On calibration of modern neural networks, equation 3.
    """
    confidence, hit = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=confidence - hit, minlength=num_bins)
    return float(np.abs(gaps).sum() / max(len(truth), 1))


def precision_lift(
    relevant: NDArray[np.bool_], score: NDArray[np.floating], weight: NDArray[np.floating] | None = None
) -> float:
    """Average precision over that of a random order in the limit, the share of the relevant; NaN without any."""
    counted = np.ones(len(score)) if weight is None else weight
    share = float((relevant * counted).sum() / max(float(counted.sum()), 1e-12))
    return average_precision(relevant, score, weight) / share if share > 0 else float("nan")


def lift_intervals(
    relevant: NDArray[np.bool_],
    scores: NDArray[np.floating],
    block: NDArray[np.int64],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[list[Interval], Interval]:
    """Lift of average precision over chance per class, and its mean over classes, with bounds over drawn blocks.

    A resample that holds nothing of a class leaves it out of the mean.

    Args:
        relevant: Shape (n, classes).
        scores: Shape (n, classes).
        block: Block of each place, shape (n,), from 0.
        rng: Draws the resamples.
        num_resamples: Number of resamples.
    """
    num_blocks, num_classes = int(block.max()) + 1, scores.shape[1]
    drawn = np.full((num_resamples, num_classes), np.nan)
    for resample in range(num_resamples):
        weight = rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks))[block].astype(np.float64)
        drawn[resample] = [precision_lift(relevant[:, c], scores[:, c], weight) for c in range(num_classes)]
    plain = np.array([precision_lift(relevant[:, each], scores[:, each]) for each in range(num_classes)])
    per_class = [_interval(plain[each], drawn[:, each]) for each in range(num_classes)]
    is_there = np.isfinite(plain)
    if not is_there.any():
        return per_class, Interval(float("nan"), float("nan"), float("nan"))
    return per_class, _interval(plain[is_there].mean(), np.nanmean(drawn[:, is_there], axis=1))


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    finite = drawn[np.isfinite(drawn)]
    if not len(finite):
        return Interval(float(value), float("nan"), float("nan"))
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(value), float(lower), float(upper))
