"""Training and validation batches from pixels, as `PlaceDataModule` gives them from features."""

from collections.abc import Iterator

import lightning
import torch
from torch import Tensor

from pipelines.features.config import ViewsConfig
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.pixel_reading import PatchReader
from pipelines.training.pixels import PixelBatches, PixelPlaces
from pipelines.training.ranks import ALONE, Ranks
from pipelines.training.splits import MIN_PLACES, is_held_out


class PixelDataModule(lightning.LightningDataModule):
    """Batches of (reflectance, lonlat_deg) of a training, and of validation places where there are at least two.

    The split and the order of places are those of a training on features with the same configuration.

    Args:
        places: Places that have a patch.
        reader: Reads their patches.
        config: Split, batch size, seed and number of epochs.
        loader: Workers and order.
        device: Where batches are made.
        views: Augmentations of training; None for none.
        first_step: Training batches to leave out at the beginning.
        ranks: Whose places of each training batch are given.

    Attributes:
        training: Places to train on.
        validation: Places kept apart.
        batch_size: Places per batch, of all ranks together.

    Raises:
        ConfigurationError: The batches give the ranks no equal shares.
    """

    def __init__(
        self,
        places: PixelPlaces,
        reader: PatchReader,
        config: TrainingConfig,
        loader: PixelLoaderConfig,
        device: torch.device,
        *,
        views: ViewsConfig | None = None,
        first_step: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        held_out = is_held_out(places.place_ids, places.lonlat_deg, config)
        self.training, self.validation = places.chosen(~held_out), places.chosen(held_out)
        self.batch_size = ranks.batch_size(config.batch_size, len(self.training))
        self._reader, self._loader, self._device = reader, loader, device
        batches = PixelBatches(
            self.training,
            reader,
            self.batch_size,
            loader,
            device,
            shuffle_seed=config.seed,
            views=views,
            ranks=ranks,
        )
        self._batches = EpochBatches(batches, config.epochs, first_step)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._batches.batches)

    def train_dataloader(self) -> "EpochBatches":
        """Shuffled batches of equal size, of all epochs one after the other."""
        return self._batches

    def val_dataloader(self) -> PixelBatches | list[tuple[Tensor, Tensor]]:
        """Batches of at most ``batch_size`` places in order, without augmentation; empty below two places."""
        if len(self.validation) < MIN_PLACES:
            return []
        return self.plain_batches(self.validation)

    def plain_batches(self, places: PixelPlaces) -> PixelBatches:
        """Batches of some places in order, without augmentation."""
        return PixelBatches(places, self._reader, min(self.batch_size, len(places)), self._loader, self._device)

    def teardown(self, stage: str) -> None:
        """Ends the workers."""
        del stage
        self._batches.batches.close()


class EpochBatches:
    """The batches of several epochs, one after the other.

    Args:
        batches: Those of an epoch.
        num_epochs: Epochs.
        first_step: Batches to leave out at the beginning.
    """

    def __init__(self, batches: PixelBatches, num_epochs: int, first_step: int = 0) -> None:
        self.batches, self.num_epochs, self.first_step = batches, num_epochs, first_step

    def __len__(self) -> int:
        return self.num_epochs * len(self.batches) - self.first_step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first_epoch, first_batch = divmod(self.first_step, len(self.batches))
        for epoch in range(first_epoch, self.num_epochs):
            self.batches.sampler.set_epoch(epoch, first_batch if epoch == first_epoch else 0)
            yield from self.batches
