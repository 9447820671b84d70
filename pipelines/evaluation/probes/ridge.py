"""Linear probes: how much of a target a linear map of the features explains on places it was not fitted to."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipelines.evaluation.probes.base import Kind, OutOfFold, Probe, Target, decide, require_features, responses_of
from pipelines.evaluation.splits import Folds

ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-4, 6, 21))
CONSTANT_STD = 1e-7
MAX_THREADS = 8


@dataclass(frozen=True)
class RidgeProbe(Probe):
    """Ridge regression whose penalty is chosen within the training folds.

    Features are standardised by the training folds' mean and deviation; the intercept is not penalised. The penalty of
    a test fold is chosen by cross-validation among its training folds, whose parts are those folds themselves: what
    the split keeps together stays together there too, and the test fold is never looked at. A class is the largest of
    one ridge per class on 0 and 1, a label one of them above one half. Ties go to the larger penalty.

    Attributes:
        alphas: Penalties to choose from, on the sum of squared residuals of standardised features.
        name: Short name.
    """

    alphas: tuple[float, ...] = ALPHAS
    name: str = "ridge"

    def out_of_fold_each(
        self, features: NDArray[Any], targets: Sequence[Target], folds: Folds, seed: int
    ) -> list[OutOfFold]:
        """Predictions of each fold from the others; nothing is drawn.

        Raises:
            ValueError: As for `require_features`.
        """
        del seed
        require_features(features, targets, folds)
        grid = np.sort(np.asarray(self.alphas, dtype=np.float64))
        responses = _Responses.of(targets)
        chosen = np.empty((folds.num_folds, len(targets)))
        predicted = np.zeros_like(responses.values)
        # One BLAS thread per fit and fits side by side: BLAS threads that share busy cores wait for each other and
        # take ten times as long.
        with (
            threadpool_limits(limits=1, user_api="blas"),
            ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool,
        ):
            if folds.excluded:
                for index in range(folds.num_folds):
                    train, test = folds.train_rows(index), folds.fold == index
                    rows = np.concatenate([train, np.flatnonzero(test)])
                    moments = _FoldMoments.of(_conditioned(features[rows]), responses.rows(rows), folds.fold[rows])
                    chosen[index] = _best(moments.inner_losses(grid, pool, tested=index)[index], grid)
                    predicted[test] = moments.predict(index, chosen[index])
            else:
                used = np.flatnonzero(folds.fold >= 0)
                moments = _FoldMoments.of(_conditioned(features[used]), responses.rows(used), folds.fold[used])
                chosen = _best(moments.inner_losses(grid, pool), grid)
                parts = pool.map(lambda index: moments.predict(index, chosen[index]), range(folds.num_folds))
                for index, part in enumerate(parts):
                    predicted[folds.fold == index] = part
        return [
            OutOfFold(decide(predicted[:, columns], kind), chosen[:, number])
            for number, (columns, kind) in enumerate(responses.parts)
        ]


def _best(losses: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The penalties of the smallest losses, shape (..., alphas)."""
    return grid[len(grid) - 1 - np.argmin(losses[..., ::-1], axis=-1)]


@dataclass(frozen=True)
class _Responses:
    """Columns to regress on, of all targets side by side.

    Attributes:
        values: Shape (n, responses).
        parts: The columns and the kind of each target.
    """

    values: NDArray[np.float64]
    parts: list[tuple[slice, Kind]]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "_Responses":
        columns = [responses_of(target) for target in targets]
        ends = np.cumsum([each.shape[1] for each in columns]).tolist()
        spans = zip([0, *ends[:-1]], ends, targets, strict=True)
        return cls(np.hstack(columns), [(slice(start, end), target.kind) for start, end, target in spans])

    def rows(self, chosen: NDArray[np.intp]) -> "_Responses":
        return _Responses(self.values[chosen], self.parts)


@dataclass(frozen=True)
class _FoldMoments:
    """Sums over each fold, from which the moments of any union of folds follow without its rows."""

    x: list[NDArray[np.float64]]
    y: list[NDArray[np.float64]]
    parts: list[tuple[slice, Kind]]
    count: NDArray[np.float64]
    sum_x: NDArray[np.float64]
    sum_y: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.float64], responses: _Responses, fold: NDArray[np.int64]) -> "_FoldMoments":
        num_folds = int(fold.max()) + 1
        parts_x = [x[fold == index] for index in range(num_folds)]
        parts_y = [responses.values[fold == index] for index in range(num_folds)]
        return cls(
            x=parts_x,
            y=parts_y,
            parts=responses.parts,
            count=np.array([len(part) for part in parts_x], dtype=np.float64),
            sum_x=np.stack([part.sum(axis=0) for part in parts_x]),
            sum_y=np.stack([part.sum(axis=0) for part in parts_y]),
            gram=np.stack([part.T @ part for part in parts_x]),
            cross=np.stack([part.T @ response for part, response in zip(parts_x, parts_y, strict=True)]),
        )

    def predict(self, tested: int, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions of one fold from all others, each target's by its own penalty."""
        normal = self.without(tested)
        centered = normal.centered(self.x[tested])
        found = np.empty_like(self.y[tested])
        for (columns, _), alpha in zip(self.parts, alphas, strict=True):
            found[:, columns] = centered @ normal.weights(float(alpha), columns) + normal.mean_response[columns]
        return found

    def inner_losses(
        self, alphas: NDArray[np.float64], pool: ThreadPoolExecutor, tested: int | None = None
    ) -> NDArray[np.float64]:
        """Losses of each penalty where a fold is tested, summed over its training folds: (folds, targets, alphas).

        With ``tested`` those of this fold alone are computed.
        """
        num_folds = len(self.x)
        pairs = [pair for pair in combinations(range(num_folds), 2) if tested is None or tested in pair]
        total = np.zeros((num_folds, len(self.parts), len(alphas)))
        computed = pool.map(lambda pair: self.losses_without(pair[0], pair[1], alphas), pairs)
        for (first, second), (of_first, of_second) in zip(pairs, computed, strict=True):
            total[second] += of_first
            total[first] += of_second
        return total

    def losses_without(
        self, first: int, second: int, alphas: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Losses on each of two folds of the ridge fitted without either; each serves where the other is tested."""
        normal = self.without(first, second)
        ridges = _AllPenalties.of(normal, alphas)
        of_first, of_second = (
            np.stack([ridges.losses(centered, self.y[index], columns, kind) for columns, kind in self.parts])
            for index in (first, second)
            for centered in [normal.centered(self.x[index])]
        )
        return of_first, of_second

    def without(self, *left_out: int) -> "_NormalEquations":
        """What all folds but some say of the weights."""
        used = [index for index in range(len(self.x)) if index not in left_out]
        count = self.count[used].sum()
        mean, mean_response = self.sum_x[used].sum(axis=0) / count, self.sum_y[used].sum(axis=0) / count
        scatter = sum((self.gram[index] for index in used), start=-count * np.outer(mean, mean))
        std = np.sqrt(np.maximum(np.diag(scatter), 0.0) / count)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > CONSTANT_STD)
        cross = (self.cross[used].sum(axis=0) - count * np.outer(mean, mean_response)) * scale[:, None]
        return _NormalEquations(mean, scale, scatter * np.outer(scale, scale), cross, mean_response)


@dataclass(frozen=True)
class _NormalEquations:
    """Moments of one training set of standardised features; ``cross`` and ``mean_response`` of all responses."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    scatter: NDArray[np.float64]
    cross: NDArray[np.float64]
    mean_response: NDArray[np.float64]

    def centered(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features standardised as those of the training set."""
        return (x - self.mean) * self.scale

    def weights(self, alpha: float, columns: slice) -> NDArray[np.float64]:
        """Weights of some responses under one penalty."""
        from scipy.linalg import cho_factor, cho_solve

        penalised = self.scatter + alpha * np.eye(len(self.scatter))
        factor = cho_factor(penalised, lower=True, overwrite_a=True, check_finite=False)
        solved: NDArray[np.float64] = cho_solve(factor, self.cross[:, columns], check_finite=False)
        return solved


@dataclass(frozen=True)
class _AllPenalties:
    """All ridges of one training set, through the eigenvectors of its correlation."""

    alphas: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    projected: NDArray[np.float64]
    mean_response: NDArray[np.float64]

    @classmethod
    def of(cls, normal: _NormalEquations, alphas: NDArray[np.float64]) -> "_AllPenalties":
        eigenvalues, eigenvectors = np.linalg.eigh(normal.scatter)
        projected = eigenvectors.T @ normal.cross
        return cls(alphas, np.maximum(eigenvalues, 0.0), eigenvectors, projected, normal.mean_response)

    def losses(
        self, centered: NDArray[np.float64], y: NDArray[np.float64], columns: slice, kind: Kind
    ) -> NDArray[np.float64]:
        """Loss of every penalty at some places: squared errors, or the number of wrong classes.

        The places are multiplied either by the weights of all penalties at once, or by the eigenvectors, whichever are
        fewer columns.
        """
        shrunk = [self.projected[:, columns] / (self.eigenvalues + alpha)[:, None] for alpha in self.alphas]
        truth, mean = y[:, columns], self.mean_response[columns]
        if len(self.alphas) * truth.shape[1] < len(self.eigenvalues):
            predicted = np.split(centered @ (self.eigenvectors @ np.hstack(shrunk)), len(self.alphas), axis=1)
        else:
            # Which class is the largest hardly ever hangs on more digits, and most of the time goes here.
            precision = np.float32 if kind == "classification" else np.float64
            rotated = (centered @ self.eigenvectors).astype(precision)
            predicted = [rotated @ each.astype(precision) for each in shrunk]
        if kind == "classification":
            labels = truth.argmax(axis=1)
            return np.array([np.count_nonzero((each + mean).argmax(axis=1) != labels) for each in predicted], float)
        return np.array([np.square(each + mean - truth).sum() for each in predicted])


def _conditioned(features: NDArray[Any]) -> NDArray[np.float64]:
    """Features about 0 with deviation 1 over all rows, constants left out.

    Standardising by a training set undoes this exactly; it only keeps sums of squares far from rounding.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    std = x.std(axis=0)
    varying = std > 1e-12 * np.abs(features).max(axis=0, initial=0.0)
    return x[:, varying] / std[varying]
