"""A small network on the features, as in the evaluation of the SatCLIP paper."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.probes.base import Kind, OutOfFold, Probe, Target, decide, require_features, responses_of
from pipelines.evaluation.splits import Folds

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SmallMLP(Probe):
    """Two hidden layers with ReLU, trained by Adam until the loss on one of the training folds has not fallen for long.

    That fold is the one after the tested fold; it is not trained on. Features, and numbers to predict, are standardised
    by the others.

    Attributes:
        hidden_dim: Width of the hidden layers.
        learning_rate: Of Adam.
        batch_size: Places per step.
        max_epochs: Epochs at most.
        patience: Epochs without improvement after which training ends.
        name: Short name.
    """

    hidden_dim: int = 64
    learning_rate: float = 1e-3
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 10
    name: str = "mlp"

    def out_of_fold_each(
        self, features: NDArray[Any], targets: Sequence[Target], folds: Folds, seed: int
    ) -> list[OutOfFold]:
        """Predictions of each fold from the others; ``seed`` decides weights and batches.

        Raises:
            ValueError: As for `require_features`.
        """
        require_features(features, targets, folds)
        return [self._out_of_fold(features, target, folds, seed) for target in targets]

    def _out_of_fold(self, features: NDArray[Any], target: Target, folds: Folds, seed: int) -> OutOfFold:
        import torch

        kind, responses = target.kind, responses_of(target)
        predicted = np.zeros_like(responses)
        with torch.random.fork_rng(devices=[]):
            for index, (train, test) in enumerate(folds.train_test()):
                torch.manual_seed(seed)
                watched = folds.fold[train] == (index + 1) % folds.num_folds
                fitted, watching = train[~watched], train[watched]
                if not len(watching) or not len(fitted):
                    fitted = watching = train
                x, y = _Standardised.of(features[fitted]), _Standardised.of(responses[fitted], kind == "regression")
                parts = [(x(features[rows]), y(responses[rows])) for rows in (fitted, watching)]
                network = self._train(parts[0], parts[1], kind)
                with torch.inference_mode():
                    predicted[test] = y.back(_likely(network(x(features[test])), kind).numpy())
        return OutOfFold(decide(predicted, kind))

    def _train(self, fitted: "tuple[Tensor, Tensor]", watched: "tuple[Tensor, Tensor]", kind: Kind) -> "nn.Module":
        import torch
        from torch import nn

        x, y = fitted
        width = self.hidden_dim
        network = nn.Sequential(
            nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, y.shape[1])
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        best, since, kept = float("inf"), 0, copy.deepcopy(network.state_dict())
        for _ in range(self.max_epochs):
            for rows in torch.split(torch.randperm(len(x)), self.batch_size):
                optimizer.zero_grad()
                _loss(network(x[rows]), y[rows], kind).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                loss = float(_loss(network(watched[0]), watched[1], kind))
            if loss < best:
                best, since, kept = loss, 0, copy.deepcopy(network.state_dict())
            else:
                since += 1
            if since >= self.patience:
                break
        network.load_state_dict(kept)
        return network


@dataclass(frozen=True)
class _Standardised:
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, numbers: NDArray[Any], wanted: bool = True) -> "_Standardised":
        if not wanted:
            return cls(np.zeros(numbers.shape[1]), np.ones(numbers.shape[1]))
        scale = numbers.std(axis=0, dtype=np.float64)
        return cls(numbers.mean(axis=0, dtype=np.float64), np.where(scale > 0, scale, 1.0))

    def __call__(self, numbers: NDArray[Any]) -> "Tensor":
        import torch

        return torch.from_numpy(((numbers - self.mean) / self.scale).astype(np.float32))

    def back(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(numbers * self.scale + self.mean, dtype=np.float64)


def _loss(outputs: "Tensor", responses: "Tensor", kind: Kind) -> "Tensor":
    from torch.nn import functional

    if kind == "regression":
        return functional.mse_loss(outputs, responses)
    if kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(outputs, responses)
    return functional.cross_entropy(outputs, responses)


def _likely(outputs: "Tensor", kind: Kind) -> "Tensor":
    return outputs.sigmoid() if kind == "multilabel" else outputs
