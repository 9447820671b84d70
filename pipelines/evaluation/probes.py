"""Linear probes: how much of a target a linear map of the features explains on places it was not fitted to."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-4, 6, 21))
CONSTANT_STD = 1e-7
MAX_THREADS = 8


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for every place by a probe that was fitted without it.

    Attributes:
        prediction: Shape (n,): numbers, or class codes.
        alpha: Shape (num_folds,): the penalty chosen for each test fold.
    """

    prediction: NDArray[np.float64] | NDArray[np.int64]
    alpha: NDArray[np.float64]


def ridge_out_of_fold(
    features: NDArray[Any],
    target: NDArray[np.float64] | NDArray[np.int64],
    fold: NDArray[np.int64],
    kind: Literal["regression", "classification"],
    alphas: tuple[float, ...] = ALPHAS,
) -> OutOfFold:
    """Ridge predictions of each fold from the others.

    Features are standardised by the training folds' mean and deviation; the intercept is not penalised. The penalty of
    a test fold is chosen by cross-validation among its training folds, whose parts are those folds themselves: what
    the split keeps together stays together there too, and the test fold is never looked at. A class is the largest of
    one ridge per class on 0 and 1. Ties go to the larger penalty.

    Args:
        features: Finite numbers, shape (n, f).
        target: Shape (n,): numbers, or class codes from 0.
        fold: Shape (n,), 0 to num_folds - 1, at least 3 folds and none empty.
        kind: Whether the target is a number or a class.
        alphas: Penalties to choose from, on the sum of squared residuals of standardised features.

    Raises:
        ValueError: Shapes that do not fit, features that are not finite, fewer than 3 folds, or an empty fold.
    """
    num_folds = int(fold.max()) + 1 if fold.size else 0
    if features.ndim != 2 or not len(features) == len(target) == len(fold):
        raise ValueError(f"features {features.shape}, target {target.shape} and fold {fold.shape} do not fit together")
    if num_folds < 3 or np.bincount(fold, minlength=num_folds).min() == 0:
        raise ValueError(
            f"the folds hold {np.bincount(fold).tolist()} places; expected at least 3 folds and none empty"
        )
    if not np.isfinite(features).all():
        raise ValueError("the features hold a number that is not finite")
    grid = np.sort(np.asarray(alphas, dtype=np.float64))
    responses = _one_hot(target) if kind == "classification" else np.asarray(target, dtype=np.float64)[:, None]
    loss = _num_errors if kind == "classification" else _squared_error
    # One BLAS thread per fit and fits side by side: BLAS threads that share busy cores wait for each other and take
    # ten times as long.
    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool,
    ):
        folds = _FoldMoments.of(_conditioned(features), responses, fold, num_folds)
        pairs = list(combinations(range(num_folds), 2))
        inner_loss = np.zeros((num_folds, len(grid)))
        for (first, second), (of_first, of_second) in zip(
            pairs, pool.map(lambda pair: folds.losses_without(pair[0], pair[1], grid, loss), pairs), strict=True
        ):
            inner_loss[second] += of_first
            inner_loss[first] += of_second
        chosen = grid[len(grid) - 1 - np.argmin(inner_loss[:, ::-1], axis=1)]
        parts = pool.map(lambda index: folds.predict(index, float(chosen[index])), range(num_folds))
        predicted = np.empty_like(responses)
        for index, part in enumerate(parts):
            predicted[fold == index] = part
    prediction = predicted.argmax(axis=1).astype(np.int64) if kind == "classification" else predicted[:, 0]
    return OutOfFold(prediction, chosen)


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
        rotated = ((x - self.mean) * self.scale) @ self.eigenvectors
        return np.array(
            [
                loss(rotated @ (self.projected_response / (self.eigenvalues + alpha)[:, None]) + self.mean_response, y)
                for alpha in alphas
            ]
        )


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
    def of(
        cls, x: NDArray[np.float64], y: NDArray[np.float64], fold: NDArray[np.int64], num_folds: int
    ) -> "_FoldMoments":
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


def _one_hot(codes: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.eye(int(codes.max()) + 1)[codes], dtype=np.float64)


def _squared_error(predicted: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.square(predicted - y).sum())


def _num_errors(predicted: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.count_nonzero(predicted.argmax(axis=1) != y.argmax(axis=1)))
