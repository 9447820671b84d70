"""Metrics of out-of-fold predictions, and their intervals by drawing whole blocks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

METRICS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "regression": ("r2", "mse"),
        "classification": ("accuracy", "macro_f1"),
        "multilabel": ("micro_f1", "macro_f1"),
    }
)
LEADING_METRICS: Final = tuple(names[0] for names in METRICS.values())
NUM_RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95
_WEIGHTS_AT_ONCE: Final = 4_000_000


def point_scores(
    truth: NDArray[Any], prediction: NDArray[Any], weights: NDArray[np.float64], block: NDArray[np.int64], kind: str
) -> dict[str, NDArray[np.float64]]:
    """Metrics of predictions with each block counted ``weights`` times.

    Args:
        truth: Targets, shape (n,); of several labels (n, classes), bool.
        prediction: Predictions, of the same shape.
        weights: Shape (r, number of blocks): how often each block counts; ones give the plain score.
        block: Shape (n,), the block of each place.
        kind: ``regression``, ``classification`` or ``multilabel``.

    Returns:
        Per metric, one value per row of ``weights``, shape (r,); NaN where a resample has no variance.
    """
    if kind == "regression":
        center = truth.mean()
        moments = np.column_stack(
            [np.ones(len(truth)), truth - center, (truth - center) ** 2, (truth - prediction) ** 2]
        )
        count, total, squares, errors = (weights @ _per_block(moments, block)).T
        variation = squares - total**2 / count
        r2 = 1.0 - np.divide(errors, variation, out=np.full_like(errors, np.nan), where=variation > 0)
        return {"r2": r2, "mse": errors / count / truth.var()}
    hit, actual, predicted = _weighted_counts(truth, prediction, weights, block, kind)
    present = actual + predicted > 0
    f1 = np.divide(2 * hit, actual + predicted, out=np.zeros_like(hit), where=present)
    macro_f1 = f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    if kind == "multilabel":
        micro_f1 = 2 * hit.sum(axis=1) / np.maximum((actual + predicted).sum(axis=1), 1)
        return {"micro_f1": micro_f1, "macro_f1": macro_f1}
    return {"accuracy": hit.sum(axis=1) / actual.sum(axis=1), "macro_f1": macro_f1}


def bootstrap_intervals(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    block: NDArray[np.int64],
    kind: str,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """Lower and upper 95 % bound of each metric when whole blocks are drawn with replacement.

    Args:
        truth: Targets, shape (n,); of several labels (n, classes), bool.
        prediction: Predictions, of the same shape.
        block: Shape (n,), the block of each place.
        kind: ``regression``, ``classification`` or ``multilabel``.
        rng: Draws the resamples.
        num_resamples: Number of resamples.
    """
    num_blocks = int(block.max()) + 1
    at_once = max(1, _WEIGHTS_AT_ONCE // num_blocks)
    resampled: dict[str, list[NDArray[np.float64]]] = {name: [] for name in METRICS[kind]}
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        weights = _resamples(num_blocks, size, rng)
        for name, values in point_scores(truth, prediction, weights, block, kind).items():
            resampled[name].append(values)
    tail = 100 * (1 - CONFIDENCE) / 2
    intervals = {}
    for name, parts in resampled.items():
        lower, upper = np.nanpercentile(np.concatenate(parts), [tail, 100 - tail])
        intervals[name] = (float(lower), float(upper))
    return intervals


def _resamples(num_blocks: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each of as many draws with replacement as there are blocks gives each block, shape (size, blocks)."""
    drawn = rng.integers(0, num_blocks, (size, num_blocks)) + num_blocks * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * num_blocks).reshape(size, num_blocks).astype(np.float64)


def _weighted_counts(
    truth: NDArray[Any], prediction: NDArray[Any], weights: NDArray[np.float64], block: NDArray[np.int64], kind: str
) -> list[NDArray[np.float64]]:
    """Hits, members and predictions of each class in each resample, shape (r, classes) each."""
    from scipy import sparse

    if kind == "multilabel":
        pairs = [np.nonzero(each) for each in (truth & prediction, truth, prediction)]
        num_classes = truth.shape[1]
    else:
        every, right = np.arange(len(truth)), np.flatnonzero(truth == prediction)
        pairs = [(right, truth[right]), (every, truth), (every, prediction)]
        num_classes = int(max(truth.max(), prediction.max())) + 1
    rows = np.concatenate([block[row] for row, _ in pairs])
    columns = np.concatenate([number * num_classes + column for number, (_, column) in enumerate(pairs)])
    # A place counts in three columns at most: a sparse product costs a thousandth of a dense one with many classes.
    shape = weights.shape[1], 3 * num_classes
    counts = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    return np.split(np.asarray(weights @ counts), 3, axis=1)


def _per_block(values: NDArray[np.float64], block: NDArray[np.int64]) -> NDArray[np.float64]:
    order = np.argsort(block, kind="stable")
    present, starts = np.unique(block[order], return_index=True)
    totals = np.zeros((int(present[-1]) + 1, values.shape[1]))
    totals[present] = np.add.reduceat(values[order], starts, axis=0)
    return totals
