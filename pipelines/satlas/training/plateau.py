"""The learning rate of the published recipe."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipelines.satlas.training.config import SatlasTrainingConfig


class Plateau:
    """A learning rate that falls where the loss stops falling: PyTorch's schedule on a rate of its own."""

    def __init__(self, config: SatlasTrainingConfig) -> None:
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=config.learning_rate)
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            cooldown=config.plateau_cooldown,
            min_lr=config.min_learning_rate,
        )

    @property
    def learning_rate(self) -> float:
        """The rate without warm-up."""
        return float(self._optimizer.param_groups[0]["lr"])

    def step(self, loss: float) -> None:
        """Takes the mean loss of an epoch."""
        self._schedule.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs; plain numbers."""
        names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        return {"learning_rate": self.learning_rate, **{name: getattr(self._schedule, name) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undoes what was counted since `state_dict`."""
        for name, value in state.items():
            if name == "learning_rate":
                self._optimizer.param_groups[0]["lr"] = value
            else:
                setattr(self._schedule, name, value)
