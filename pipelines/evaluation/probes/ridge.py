"""Linear probes: how much of a target a linear map of the features explains on places it was not fitted to."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.evaluation.probes.base import Kind, OutOfFold, decide, require_features, responses_of
from pipelines.evaluation.splits import Folds

ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-4, 6, 21))
CONSTANT_STD = 1e-7
MAX_THREADS = 8


@dataclass(frozen=True)
class RidgeProbe:
    """Ridge whose penalty is chosen within the training folds; see `ridge_out_of_fold`.

    Attributes:
        alphas: Penalties to choose from.
        name: Short name.
    """

    alphas: tuple[float, ...] = ALPHAS
    name: str = "ridge"

    def out_of_fold(
        self, features: NDArray[Any], target: NDArray[Any], folds: Folds, kind: Kind, seed: int
    ) -> OutOfFold:
        """Predictions of each fold from the others; nothing is drawn."""
        del seed
        return ridge_out_of_fold(features, target, folds, kind, self.alphas)


def ridge_out_of_fold(
    features: NDArray[Any], target: NDArray[Any], folds: Folds, kind: Kind, alphas: tuple[float, ...] = ALPHAS
) -> OutOfFold:
    """Ridge predictions of each fold from the others.

    Features are standardised by the training folds' mean and deviation; the intercept is not penalised. The penalty of
    a test fold is chosen by cross-validation among its training folds, whose parts are those folds themselves: what
    the split keeps together stays together there too, and the test fold is never looked at. A class is the largest of
    one ridge per class on 0 and 1, a label one of them above one half. Ties go to the larger penalty.

    Args:
        features: Finite numbers, shape (n, f).
        target: Shape (n,): numbers, or class codes from 0; or (n, classes), bool.
        folds: Which places are trained on and tested, at least 3 folds and none empty.
        kind: Of the target.
        alphas: Penalties to choose from, on the sum of squared residuals of standardised features.

    Raises:
        ValueError: Shapes that do not fit, features that are not finite, fewer than 3 folds, or an empty fold.
    """
    require_features(features, target, folds)
    grid = np.sort(np.asarray(alphas, dtype=np.float64))
    responses = responses_of(target, kind)
    loss = _num_errors if kind == "classification" else _squared_error
    chosen = np.empty(folds.num_folds)
    predicted = np.zeros_like(responses)
    # One BLAS thread per fit and fits side by side: BLAS threads that share busy cores wait for each other and take
    # ten times as long.
    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool,
    ):
        if folds.excluded:
            for index in range(folds.num_folds):
                train, test = folds.train_rows(index), folds.fold == index
                rows = np.concatenate([train, np.flatnonzero(test)])
                moments = _FoldMoments.of(_conditioned(features[rows]), responses[rows], folds.fold[rows])
                chosen[index] = _best(moments.inner_losses(grid, loss, pool, tested=index)[index], grid)
                predicted[test] = moments.predict(index, float(chosen[index]))
        else:
            used = np.flatnonzero(folds.fold >= 0)
            moments = _FoldMoments.of(_conditioned(features[used]), responses[used], folds.fold[used])
            losses = moments.inner_losses(grid, loss, pool)
            chosen = np.array([_best(losses[index], grid) for index in range(folds.num_folds)])
            parts = pool.map(lambda index: moments.predict(index, float(chosen[index])), range(folds.num_folds))
            for index, part in enumerate(parts):
                predicted[folds.fold == index] = part
    return OutOfFold(decide(predicted, kind), chosen)


def _best(losses: NDArray[np.float64], grid: NDArray[np.float64]) -> float:
    return float(grid[len(grid) - 1 - np.argmin(losses[::-1])])


@dataclass(frozen=True)
class _FittedRidge:
    """All ridges of one training set, through the eigenvectors of its correlation."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    projected_response: NDArray[np.float64]
    mean_response: NDArray[np.float64]

    def predict(self, x: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
        weights = self.eigenvectors @ (self.projected_response / (self.eigenvalues + alpha)[:, None])
        return ((x - self.mean) * self.scale) @ weights + self.mean_response

    def losses(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        alphas: NDArray[np.float64],
        loss: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    ) -> NDArray[np.float64]:
        """Loss of every penalty on some places.

        The places are multiplied either by the weights of all penalties at once, or by the eigenvectors, whichever are
        fewer columns.
        """
        centered = (x - self.mean) * self.scale
        shrunk = [self.projected_response / (self.eigenvalues + alpha)[:, None] for alpha in alphas]
        if len(alphas) * y.shape[1] < len(self.eigenvalues):
            predicted = np.split(centered @ (self.eigenvectors @ np.hstack(shrunk)), len(alphas), axis=1)
        else:
            rotated = centered @ self.eigenvectors
            predicted = [rotated @ each for each in shrunk]
        return np.array([loss(each + self.mean_response, y) for each in predicted])


@dataclass(frozen=True)
class _FoldMoments:
    """Sums over each fold, from which the moments of any union of folds follow without its rows."""

    x: list[NDArray[np.float64]]
    y: list[NDArray[np.float64]]
    count: NDArray[np.float64]
    sum_x: NDArray[np.float64]
    sum_y: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.float64], y: NDArray[np.float64], fold: NDArray[np.int64]) -> "_FoldMoments":
        num_folds = int(fold.max()) + 1
        parts_x = [x[fold == index] for index in range(num_folds)]
        parts_y = [y[fold == index] for index in range(num_folds)]
        return cls(
            x=parts_x,
            y=parts_y,
            count=np.array([len(part) for part in parts_x], dtype=np.float64),
            sum_x=np.stack([part.sum(axis=0) for part in parts_x]),
            sum_y=np.stack([part.sum(axis=0) for part in parts_y]),
            gram=np.stack([part.T @ part for part in parts_x]),
            cross=np.stack([part.T @ response for part, response in zip(parts_x, parts_y, strict=True)]),
        )

    def predict(self, tested: int, alpha: float) -> NDArray[np.float64]:
        """Predictions of one fold from all others."""
        return self.fit_without(tested).predict(self.x[tested], alpha)

    def inner_losses(
        self,
        alphas: NDArray[np.float64],
        loss: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
        pool: ThreadPoolExecutor,
        tested: int | None = None,
    ) -> NDArray[np.float64]:
        """Losses of each penalty where a fold is tested, summed over its training folds, shape (folds, alphas).

        With ``tested`` those of this fold alone are computed.
        """
        num_folds = len(self.x)
        pairs = [pair for pair in combinations(range(num_folds), 2) if tested is None or tested in pair]
        total = np.zeros((num_folds, len(alphas)))
        computed = pool.map(lambda pair: self.losses_without(pair[0], pair[1], alphas, loss), pairs)
        for (first, second), (of_first, of_second) in zip(pairs, computed, strict=True):
            total[second] += of_first
            total[first] += of_second
        return total

    def losses_without(
        self,
        first: int,
        second: int,
        alphas: NDArray[np.float64],
        loss: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Losses on each of two folds of the ridge fitted without either; each serves where the other is tested."""
        ridge = self.fit_without(first, second)
        of_first = ridge.losses(self.x[first], self.y[first], alphas, loss)
        return of_first, ridge.losses(self.x[second], self.y[second], alphas, loss)

    def fit_without(self, *left_out: int) -> _FittedRidge:
        used = [index for index in range(len(self.x)) if index not in left_out]
        count = self.count[used].sum()
        mean, mean_response = self.sum_x[used].sum(axis=0) / count, self.sum_y[used].sum(axis=0) / count
        scatter = sum((self.gram[index] for index in used), start=-count * np.outer(mean, mean))
        std = np.sqrt(np.maximum(np.diag(scatter), 0.0) / count)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > CONSTANT_STD)
        cross = (self.cross[used].sum(axis=0) - count * np.outer(mean, mean_response)) * scale[:, None]
        eigenvalues, eigenvectors = np.linalg.eigh(scatter * np.outer(scale, scale))
        return _FittedRidge(
            mean, scale, np.maximum(eigenvalues, 0.0), eigenvectors, eigenvectors.T @ cross, mean_response
        )


def _conditioned(features: NDArray[Any]) -> NDArray[np.float64]:
    """Features about 0 with deviation 1 over all rows, constants left out.

    Standardising by a training set undoes this exactly; it only keeps sums of squares far from rounding.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    std = x.std(axis=0)
    varying = std > 1e-12 * np.abs(features).max(axis=0, initial=0.0)
    return x[:, varying] / std[varying]


def _squared_error(predicted: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.square(predicted - y).sum())


def _num_errors(predicted: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.count_nonzero(predicted.argmax(axis=1) != y.argmax(axis=1)))
