"""Batches of patches for training from pixels, prepared on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.features.config import ViewsConfig
from pipelines.features.views import augment, reflectance_tensor
from pipelines.patches.dataset import PatchDataset
from pipelines.patches.shard_reader import ShardReader
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.part_sampling import PartSampler
from pipelines.training.pixel_reading import PatchReader, PatchStream
from pipelines.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class PixelPlaces:
    """Places that have a patch.

    Attributes:
        rows: Their rows in the store, shape (n,).
        shards: Shard of each row, shape (n,).
        boa_add_offset: Offset of the digital numbers (0 or -1000), shape (n,).
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2), float64.
        place_ids: Ids, shape (n,).
    """

    rows: NDArray[np.int64]
    shards: NDArray[np.int64]
    boa_add_offset: NDArray[np.int64]
    lonlat_deg: NDArray[np.float64]
    place_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, mask: NDArray[np.bool_]) -> "PixelPlaces":
        """The places where ``mask`` is true."""
        return PixelPlaces(
            self.rows[mask],
            self.shards[mask],
            self.boa_add_offset[mask],
            self.lonlat_deg[mask],
            self.place_ids[mask],
        )


def pixel_places(dataset: PatchDataset) -> PixelPlaces:
    """The places of a dataset that have a patch, in its order."""
    places = dataset.places[dataset.places["valid"].to_numpy(dtype=bool)]
    rows = places["row"].to_numpy(dtype=np.int64)
    return PixelPlaces(
        rows=rows,
        shards=rows // dataset.shard_size,
        boa_add_offset=places["boa_add_offset"].to_numpy(dtype=np.int64),
        lonlat_deg=places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64),
        place_ids=places["place_id"].to_numpy(dtype=np.int64),
    )


def open_shard_reader(dataset: PatchDataset) -> ShardReader:
    """The reader of a dataset's patches.

    Raises:
        StoreError: A store of another layout.
    """
    return ShardReader(dataset.path / "patches.zarr" / "image")


class PixelBatches:
    """Batches of (reflectance, lonlat_deg) on a device.

    Reflectance has shape (batch, 12, size, size), float32, free of the processing baseline's offset; lonlat_deg has
    shape (batch, 2), float64. In training every epoch has its own view of each place, decided by (seed of the views,
    epoch, place); with ``num_views`` 1, or without ``views``, it is the patch itself.

    An epoch follows from (seed, epoch) alone, so that training goes on at any batch with ``sampler.set_epoch``. Without
    a call, each pass is the epoch after the last complete one. Workers live until `close`, or until the object is gone;
    those of validation until the end of a pass.

    Args:
        places: The places.
        reader: Reads their patches.
        batch_size: Places per batch, of all ranks together.
        config: Workers and order.
        device: Where batches are made.
        shuffle_seed: Seed of the order of training; None for validation: all places in their order.
        views: Augmentations.
        ranks: Whose places of each batch are given.

    Attributes:
        sampler: The order of the places, with the epoch.

    Raises:
        ValueError: A batch larger than the number of places.
    """

    def __init__(
        self,
        places: PixelPlaces,
        reader: PatchReader,
        batch_size: int,
        config: PixelLoaderConfig,
        device: torch.device,
        *,
        shuffle_seed: int | None = None,
        views: ViewsConfig | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.places, self.batch_size, self.device = places, batch_size, device
        self.sampler = PartSampler(places.shards, batch_size, config, shuffle_seed, ranks)
        self._reader, self._config, self._views = reader, config, views
        self._is_validation = shuffle_seed is None
        self._lonlat_deg = torch.tensor(places.lonlat_deg, device=device)
        self._offsets = torch.tensor(places.boa_add_offset, device=device)
        self._stream: PatchStream | None = None

    def __len__(self) -> int:
        return len(self.sampler.batch_sizes())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch, from the sampler's first batch on.

        Raises:
            ConfigurationError: Less shared memory than the workers fill.
            StoreError: A damaged shard.
        """
        if self._stream is None:
            self._stream = PatchStream(self._reader, self.places.rows, self.sampler, self._config)
        epoch = self.sampler.epoch
        parts = iter(self._stream)
        try:
            for size in self.sampler.batch_sizes()[self.sampler.first_batch :]:
                yield self._assemble(parts, size, epoch)
        finally:
            if self._is_validation:
                self.close()
        self.sampler.set_epoch(epoch + 1)

    def close(self) -> None:
        """Ends the workers; another pass starts new ones."""
        self._stream = None

    def _assemble(self, parts: Iterator[tuple[Tensor, list[int]]], size: int, epoch: int) -> tuple[Tensor, Tensor]:
        reflectance = torch.empty((size, *self._reader.patch_shape), device=self.device)
        positions: list[int] = []
        while len(positions) < size:
            dn, part = next(parts)
            start = len(positions)
            positions += part
            reflectance[start : len(positions)] = self._prepare(dn, part, epoch)
        return reflectance, self._lonlat_deg[positions]

    def _prepare(self, dn: Tensor, positions: list[int], epoch: int) -> Tensor:
        reflectance = reflectance_tensor(dn.to(self.device), self._offsets[positions])
        if self._views is None or self._views.num_views == 1:
            return reflectance
        return augment(reflectance, self.places.place_ids[positions], epoch + 1, self._views)
