"""What all probes share: they predict every place by a model that was fitted without its fold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.splits import Folds

Kind = Literal["regression", "classification", "multilabel"]
LABEL_THRESHOLD = 0.5
"""A place has a label of several where a probe gives it more than this."""


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for every place by a probe that was fitted without it.

    Attributes:
        prediction: Shape (n,): numbers, or class codes; of a multilabel task (n, classes), bool. Places that no fold
            tests hold 0.
        alpha: Shape (num_folds,): the penalty chosen for each test fold, where there is one.
    """

    prediction: NDArray[Any]
    alpha: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Target:
    """What is to be predicted.

    Attributes:
        values: Shape (n,): numbers, or class codes from 0; or (n, classes), bool.
        kind: Of the values.
    """

    values: NDArray[Any]
    kind: Kind


class Probe(Protocol):
    """A way to predict targets from features.

    Attributes:
        name: Short name in the column ``method`` of scores.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def out_of_fold_each(
        self, features: NDArray[Any], targets: Sequence[Target], folds: Folds, seed: int
    ) -> list[OutOfFold]:
        """Predictions of each fold from the others, target by target; what depends on the features is done once.

        Args:
            features: Finite numbers, shape (n, f).
            targets: One or more at the same places; none of them is seen by the predictions of another.
            folds: Which places are trained on and tested.
            seed: Of what the probe draws.
        """
        ...

    def out_of_fold(
        self, features: NDArray[Any], target: NDArray[Any], folds: Folds, kind: Kind, seed: int
    ) -> OutOfFold:
        """`out_of_fold_each` of one target."""
        return self.out_of_fold_each(features, [Target(target, kind)], folds, seed)[0]


def responses_of(target: Target) -> NDArray[np.float64]:
    """The target as columns to regress on, shape (n, responses): numbers, or 0 and 1 per class."""
    if target.kind == "regression":
        return np.asarray(target.values, dtype=np.float64)[:, None]
    if target.kind == "multilabel":
        return np.asarray(target.values, dtype=np.float64)
    return np.asarray(np.eye(int(target.values.max()) + 1)[target.values], dtype=np.float64)


def decide(predicted: NDArray[np.float64], kind: Kind) -> NDArray[Any]:
    """Numbers, class codes or labels from predicted responses, shape (n, responses)."""
    if kind == "regression":
        return predicted[:, 0]
    if kind == "multilabel":
        return predicted > LABEL_THRESHOLD
    return predicted.argmax(axis=1).astype(np.int64)


def require_features(features: NDArray[Any], targets: Sequence[Target], folds: Folds) -> None:
    """Raises ValueError for shapes that do not fit, features that are not finite, or fewer than 3 folds."""
    for target in targets:
        if features.ndim != 2 or not len(features) == len(target.values) == len(folds.fold):
            raise ValueError(
                f"features {features.shape}, target {target.values.shape} and fold {folds.fold.shape} do not fit "
                "together"
            )
    counts = np.bincount(folds.fold[folds.fold >= 0], minlength=folds.num_folds)
    if folds.num_folds < 3 or counts.min() == 0:
        raise ValueError(f"the folds hold {counts.tolist()} places; expected at least 3 folds and none empty")
    if not np.isfinite(features).all():
        raise ValueError("the features hold a number that is not finite")
