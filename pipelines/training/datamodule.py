"""Training and validation places, split by place, and their batches on the device."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SEED_STRIDE = 1_000_003


def is_validation_place(place_ids: Sequence[int] | NDArray[np.int64], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Which places are kept for validation, decided for each place by its id and the seed alone.

    Adding or removing places leaves the others where they are.

    Args:
        place_ids: Ids of places.
        seed: Another seed gives another split.
        fraction: Expected share of validation places, 0 to 1.
    """
    draws = [
        int.from_bytes(hashlib.blake2b(f"{seed}:{int(place_id)}".encode(), digest_size=8).digest(), "big") / 2.0**64
        for place_id in place_ids
    ]
    return np.asarray(draws, dtype=np.float64) < fraction


@dataclass(frozen=True)
class PlaceTensors:
    """Features (n, f) float32, lonlat_deg (n, 2) float64 and ids (n,) of places."""

    features: Tensor
    lonlat_deg: Tensor
    place_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.place_ids)

    def rows(self, chosen: NDArray[np.bool_]) -> "PlaceTensors":
        """The places where ``chosen`` is true."""
        mask = torch.from_numpy(chosen)
        return PlaceTensors(self.features[mask], self.lonlat_deg[mask], self.place_ids[chosen])

    def to(self, device: torch.device) -> "PlaceTensors":
        """The same places with tensors on ``device``."""
        return PlaceTensors(self.features.to(device), self.lonlat_deg.to(device), self.place_ids)


class PlaceBatches:
    """Batches of (features, lonlat_deg) by index permutation; the whole matrix stays on its device.

    With a seed, every pass draws its own permutation from (seed, number of the pass) and a last, smaller batch is left
    out, so that every loss has the same number of negatives; without, rows come in order and all are used.
    """

    def __init__(self, places: PlaceTensors, batch_size: int, shuffle_seed: int | None = None) -> None:
        if not 0 < batch_size <= len(places):
            raise ValueError(f"batch_size is {batch_size}; expected 1 to {len(places)}, the number of places")
        self.places, self.batch_size, self.shuffle_seed = places, batch_size, shuffle_seed
        self._passes = 0

    def __len__(self) -> int:
        if self.shuffle_seed is None:
            return math.ceil(len(self.places) / self.batch_size)
        return len(self.places) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.places))
        if self.shuffle_seed is not None:
            generator = torch.Generator().manual_seed(self.shuffle_seed * _SEED_STRIDE + self._passes)
            order = torch.randperm(len(self.places), generator=generator)
            self._passes += 1
        order = order.to(self.places.features.device)
        for batch in range(len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield self.places.features[rows], self.places.lonlat_deg[rows]


class PlaceDataModule(lightning.LightningDataModule):
    """Batches of training places, and of validation places where there are at least two."""

    def __init__(self, training: PlaceTensors, validation: PlaceTensors, batch_size: int, seed: int) -> None:
        super().__init__()
        self.training, self.validation, self.seed = training, validation, seed
        self.batch_size = min(batch_size, len(training))

    def train_dataloader(self) -> PlaceBatches:
        """Shuffled batches of equal size."""
        return PlaceBatches(self.training, self.batch_size, shuffle_seed=self.seed)

    def val_dataloader(self) -> PlaceBatches | list[tuple[Tensor, Tensor]]:
        """One batch of at most ``batch_size`` rows at a time, in order; empty below two validation places."""
        if len(self.validation) < 2:
            return []
        return PlaceBatches(self.validation, min(self.batch_size, len(self.validation)))
