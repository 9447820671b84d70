"""What a training asks of its batches, wherever they come from."""

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Features of the image backbone, shape (n, f), or reflectance, shape (n, 12, size, size); and lonlat_deg (n, 2)."""

Part = Literal["train", "val"]


class Places(Protocol):
    """Places of a part of the split."""

    @property
    def place_ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,)."""

    def __len__(self) -> int: ...


class Batches(Protocol):
    """Batches whose number is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class TrainingData(Protocol):
    """The batches of a training; see `datamodule.PlaceDataModule` and `pixel_datamodule.PixelDataModule`."""

    batch_size: int

    @property
    def training(self) -> Places:
        """Places to train on."""

    @property
    def validation(self) -> Places:
        """Places kept apart."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    def go_on_at(self, step: int) -> None:
        """Leaves out training batches at the beginning: those of the steps that were taken before."""

    def train_dataloader(self) -> Batches:
        """Shuffled batches of equal size, of all epochs one after the other."""

    def val_dataloader(self) -> Batches:
        """Batches of the validation places as `plain_dataloader` gives them; empty below two places."""

    def plain_dataloader(self, part: Part) -> Iterable[Batch]:
        """Batches of all places of a part, in their order and without augmentation."""

    def teardown(self, stage: str) -> None:
        """Ends what the batches hold, such as worker processes."""
