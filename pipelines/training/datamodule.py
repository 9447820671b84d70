"""Places with the features of their views, and their batches on the device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import ConfigurationError
from pipelines.features.keyed_draws import draw_uniform
from pipelines.training.data import Batch, Part
from pipelines.training.ranks import ALONE, Ranks
from pipelines.training.shuffling import epoch_order


@dataclass(frozen=True)
class PlaceTensors:
    """Features (n, views, f) in the bank's type, lonlat_deg (n, 2) float64 and ids (n,) of places."""

    features: Tensor
    lonlat_deg: Tensor
    place_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.place_ids)

    @property
    def num_views(self) -> int:
        """Views per place."""
        return self.features.shape[1]

    @property
    def plain(self) -> Tensor:
        """Features of view 0, without augmentation, shape (n, f), float32."""
        return self.features[:, 0].float()

    def rows(self, chosen: NDArray[np.bool_]) -> "PlaceTensors":
        """The places where ``chosen`` is true."""
        mask = torch.from_numpy(chosen)
        return PlaceTensors(self.features[mask], self.lonlat_deg[mask], self.place_ids[chosen])

    def to(self, device: torch.device) -> "PlaceTensors":
        """The same places with tensors on ``device``.

        Raises:
            ConfigurationError: They do not fit into its memory.
        """
        try:
            return PlaceTensors(self.features.to(device), self.lonlat_deg.to(device), self.place_ids)
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(
                f"the features of {len(self)} places with {self.num_views} views take {self.features.nbytes / 1e9:.1f} "
                "GB, more than the memory of the GPU has left; make a bank with fewer views or set accelerator to cpu"
            ) from error


def choose_views(place_ids: NDArray[np.int64], seed: int, epoch: int, num_views: int) -> NDArray[np.int64]:
    """The view that an epoch, counted from 0, takes of each place: uniform, decided by (seed, epoch, place id)."""
    if num_views == 1:
        return np.zeros(len(place_ids), dtype=np.int64)
    return np.floor(draw_uniform(seed, epoch, place_ids, 1)[:, 0] * num_views).astype(np.int64)


class TrainingBatches:
    """All batches of a training, epoch after epoch, by index permutation; the features stay on their device.

    Every epoch has its order (`epoch_order`) and takes one view of each place (`choose_views`). A last, smaller batch
    of an epoch is left out, so that every loss has the same number of negatives.

    Args:
        places: Features and coordinates.
        batch_size: Places per batch.
        seed: Decides orders and views.
        num_epochs: Passes over the places.
        first_step: Batches to leave out at the beginning.
        ranks: Whose rows of each batch are given.

    Raises:
        ValueError: ``batch_size`` is below 1 or above the number of places.
    """

    def __init__(
        self,
        places: PlaceTensors,
        batch_size: int,
        seed: int,
        num_epochs: int,
        first_step: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        _require_batch_size(batch_size, places)
        self.places, self.batch_size, self.seed, self.num_epochs = places, batch_size, seed, num_epochs
        self.steps_per_epoch = len(places) // batch_size
        self.first_step, self.ranks = first_step, ranks

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch - self.first_step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first_epoch, left_out = divmod(self.first_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.num_epochs):
            yield from self._epoch(epoch, left_out if epoch == first_epoch else 0)

    def _epoch(self, epoch: int, left_out: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.places.features.device
        order = epoch_order(len(self.places), self.seed, epoch).to(device)
        views = torch.from_numpy(choose_views(self.places.place_ids, self.seed, epoch, self.places.num_views))
        views = views.to(device)
        for batch in range(left_out, self.steps_per_epoch):
            rows = self.ranks.own_rows(order[batch * self.batch_size : (batch + 1) * self.batch_size])
            yield self.places.features[rows, views[rows]].float(), self.places.lonlat_deg[rows]


class PlainBatches:
    """Batches of (features of view 0, lonlat_deg) in order; all places are used.

    Raises:
        ValueError: ``batch_size`` is below 1 or above the number of places.
    """

    def __init__(self, places: PlaceTensors, batch_size: int) -> None:
        _require_batch_size(batch_size, places)
        self.places, self.batch_size = places, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.places) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.places), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self.places.features[rows, 0].float(), self.places.lonlat_deg[rows]


class PlaceDataModule(lightning.LightningDataModule):
    """The batches of a training, and of validation places where there are at least two.

    Args:
        training: Places to train on.
        validation: Places kept apart.
        batch_size: Places per batch, of all ranks together, clipped to the number of training places.
        seed: Decides orders and views.
        num_epochs: Passes over the training places.
        first_step: Training batches to leave out at the beginning.
        ranks: Whose rows of each training batch are given.

    Raises:
        ConfigurationError: The batches give the ranks no equal shares.
    """

    def __init__(
        self,
        training: PlaceTensors,
        validation: PlaceTensors,
        batch_size: int,
        seed: int,
        num_epochs: int,
        first_step: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.training, self.validation = training, validation
        self.batch_size = ranks.batch_size(batch_size, len(training))
        self._batches = TrainingBatches(training, self.batch_size, seed, num_epochs, first_step, ranks)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self._batches.steps_per_epoch

    def go_on_at(self, step: int) -> None:
        """Leaves out the training batches of the steps before ``step``."""
        self._batches.first_step = step

    def train_dataloader(self) -> TrainingBatches:
        """Shuffled batches of equal size, of all epochs one after the other."""
        return self._batches

    def val_dataloader(self) -> PlainBatches | list[Batch]:
        """Batches of at most ``batch_size`` places in order; empty below two validation places."""
        return self.plain_dataloader("val") if len(self.validation) > 1 else []

    def plain_dataloader(self, part: Part) -> PlainBatches:
        """Batches of at most ``batch_size`` places of a part in order, with the features of view 0."""
        places = self.training if part == "train" else self.validation
        return PlainBatches(places, min(self.batch_size, len(places)))


def _require_batch_size(batch_size: int, places: PlaceTensors) -> None:
    if not 0 < batch_size <= len(places):
        raise ValueError(f"batch_size is {batch_size}; expected 1 to {len(places)}, the number of places")
