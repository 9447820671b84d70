"""Training and validation batches from pixels, as `PlaceDataModule` gives them from features."""

from collections.abc import Generator

import lightning
import torch

from pipelines.features.config import ViewsConfig
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.data import Batch, Part
from pipelines.training.pixel_reading import PatchReader
from pipelines.training.pixels import PixelBatches, PixelPlaces
from pipelines.training.ranks import ALONE, Ranks
from pipelines.training.splits import MIN_PLACES


class PixelDataModule(lightning.LightningDataModule):
    """Batches of (reflectance, lonlat_deg) of a training, and of validation places where there are at least two.

    The order of places is that of a training on features with the same configuration.

    Args:
        training: Places to train on.
        validation: Places kept apart.
        reader: Reads their patches.
        config: Batch size, seed and number of epochs.
        loader: Workers and order.
        device: Where batches are made.
        views: Augmentations of training; None for none.
        first_step: Training batches to leave out at the beginning.
        ranks: Whose places of each training batch are given.

    Attributes:
        batch_size: Places per batch, of all ranks together.

    Raises:
        ConfigurationError: The batches give the ranks no equal shares.
    """

    def __init__(
        self,
        training: PixelPlaces,
        validation: PixelPlaces,
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
        self.training, self.validation = training, validation
        self.batch_size = ranks.batch_size(config.batch_size, len(self.training))
        self._reader, self._loader, self._device, self._num_ranks = reader, loader, device, ranks.world_size
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

    def go_on_at(self, step: int) -> None:
        """Leaves out the training batches of the steps before ``step``."""
        self._batches.first_step = step

    def train_dataloader(self) -> "EpochBatches":
        """Shuffled batches of equal size, of all epochs one after the other."""
        return self._batches

    def val_dataloader(self) -> PixelBatches | list[Batch]:
        """Batches of the validation places as `plain_dataloader` gives them; empty below two places."""
        return self.plain_dataloader("val") if len(self.validation) >= MIN_PLACES else []

    def plain_dataloader(self, part: Part) -> PixelBatches:
        """Batches of a part's places in order, without augmentation, each as large as a rank's share in training."""
        places = self.training if part == "train" else self.validation
        size = min(self.batch_size // self._num_ranks, len(places))
        return PixelBatches(places, self._reader, size, self._loader, self._device)

    def teardown(self, stage: str) -> None:
        """Ends the workers of training."""
        del stage
        self._batches.close()


class EpochBatches:
    """The batches of several epochs, one after the other.

    Args:
        batches: Those of an epoch.
        num_epochs: Epochs.
        first_step: Batches to leave out at the beginning.
    """

    def __init__(self, batches: PixelBatches, num_epochs: int, first_step: int = 0) -> None:
        self.batches, self.num_epochs, self.first_step = batches, num_epochs, first_step
        self._pass: Generator[Batch] | None = None

    def __len__(self) -> int:
        return self.num_epochs * len(self.batches) - self.first_step

    def __iter__(self) -> Generator[Batch]:
        self._pass = self._generate()
        return self._pass

    def close(self) -> None:
        """Breaks off a pass that has begun, and ends the workers."""
        if self._pass is not None:
            self._pass.close()
        self.batches.close()

    def _generate(self) -> Generator[Batch]:
        first_epoch, first_batch = divmod(self.first_step, len(self.batches))
        for epoch in range(first_epoch, self.num_epochs):
            self.batches.sampler.set_epoch(epoch, first_batch if epoch == first_epoch else 0)
            yield from self.batches
