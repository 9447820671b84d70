"""Which places are read together, and in which order."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from pipelines.training.config import PixelLoaderConfig
from pipelines.training.ranks import ALONE, Ranks
from pipelines.training.shuffling import epoch_order, windowed_order


class Part(NamedTuple):
    """Places that a worker reads at a time.

    Attributes:
        slot: Where their patches go.
        positions: Which places, counted from 0.
    """

    slot: int
    positions: list[int]


class PartSampler(Sampler[Part]):
    """The places of an epoch, batch after batch, each batch in parts of at most ``part_size`` places.

    With a seed the order follows from (seed, epoch) alone and a last, smaller batch is left out; without, places come
    in their order and all are used.

    Args:
        shards: Shard of each place, shape (places,).
        batch_size: Places per batch, of all ranks together.
        config: Sizes and order.
        shuffle_seed: Seed of the order.
        ranks: Whose places of each batch are given.

    Raises:
        ValueError: A batch larger than the number of places.
    """

    def __init__(
        self,
        shards: NDArray[np.int64],
        batch_size: int,
        config: PixelLoaderConfig,
        shuffle_seed: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if not 0 < batch_size <= len(shards):
            raise ValueError(f"batch_size is {batch_size}; expected 1 to {len(shards)}, the number of places")
        self.batch_size, self.epoch, self.first_batch = batch_size, 0, 0
        self.num_slots = config.num_workers * config.prefetch_parts + 1
        self._shards, self._config, self._seed, self._ranks = shards, config, shuffle_seed, ranks

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Names the epoch that the next pass belongs to, and the batch that it begins with."""
        self.epoch, self.first_batch = epoch, first_batch

    def batch_sizes(self) -> list[int]:
        """Places of this rank in each batch of a whole epoch."""
        whole, rest = divmod(len(self._shards), self.batch_size)
        sizes = [self.batch_size] * whole + ([rest] if rest and self._seed is None else [])
        return [size // self._ranks.world_size for size in sizes]

    def order(self) -> Tensor:
        """All places in the order of the epoch, of all ranks together."""
        if self._seed is None:
            return torch.arange(len(self._shards))
        if self._config.window_shards:
            return torch.from_numpy(windowed_order(self._shards, self._config.window_shards, self._seed, self.epoch))
        return epoch_order(len(self._shards), self._seed, self.epoch)

    def __iter__(self) -> Iterator[Part]:
        batches = torch.split(self.order(), self.batch_size)[self.first_batch : len(self.batch_sizes())]
        parts = (part for batch in batches for part in torch.split(self._ranks.own_rows(batch), self._config.part_size))
        for number, part in enumerate(parts):
            yield Part(number % self.num_slots, part.tolist())


class PartsFrom(Sampler[Part]):
    """The parts of a sampler from number ``first_part`` on, counted from 0."""

    def __init__(self, sampler: PartSampler) -> None:
        self._sampler, self.first_part = sampler, 0

    def __iter__(self) -> Iterator[Part]:
        return itertools.islice(self._sampler, self.first_part, None)
