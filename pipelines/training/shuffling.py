"""In which order an epoch passes over places, and how far that is from a uniform order."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SEED_STRIDE: Final = 1_000_003


@dataclass(frozen=True)
class ShuffleQuality:
    """How far an order is from a uniform one.

    Attributes:
        rank_correlation: Spearman's correlation of position in the store and position in the epoch; 0 if uniform, with
            standard deviation 1 / sqrt(places - 1).
        neighbor_ratio: Pairs of one batch that share a shard, over their expected number in a uniform order; 1 if
            uniform.
    """

    rank_correlation: float
    neighbor_ratio: float


def epoch_order(num_places: int, seed: int, epoch: int) -> Tensor:
    """Order in which an epoch, counted from 0, goes through the places: a permutation of 0 .. ``num_places`` - 1."""
    return torch.randperm(num_places, generator=torch.Generator().manual_seed(seed * _SEED_STRIDE + epoch))


def windowed_order(shards: NDArray[np.int64], window_shards: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation that mixes places within windows of whole shards drawn at random.

    Reads stay within one window at a time, so that storage which is slow at random reads, or remote, is read about in
    sequence. Places of different windows meet only in a batch at the windows' edges.

    Args:
        shards: Shard of each place, shape (places,).
        window_shards: Shards per window.
        seed: Decides the order, with the epoch.
        epoch: Number of the epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    numbers = rng.permutation(np.unique(shards))
    windows = [
        rng.permutation(np.flatnonzero(np.isin(shards, numbers[start : start + window_shards])))
        for start in range(0, len(numbers), window_shards)
    ]
    return np.concatenate(windows)


def measure_shuffle(order: NDArray[np.int64], shards: NDArray[np.int64], batch_size: int) -> ShuffleQuality:
    """How far the order of an epoch is from a uniform one.

    Args:
        order: Places by position in the epoch, shape (places,), counted in the order of the store.
        shards: Shard of each place, shape (places,).
        batch_size: Places per batch; a last, smaller batch is left out.
    """
    _, drawn, sizes = np.unique(shards, return_inverse=True, return_counts=True)
    num_batches = len(order) // batch_size
    batches = drawn[order[: num_batches * batch_size]].reshape(num_batches, batch_size)
    found = sum(int((counts * (counts - 1)).sum()) for counts in map(np.bincount, batches))
    chance = float((sizes * (sizes - 1)).sum()) / (len(order) * (len(order) - 1))
    expected = num_batches * batch_size * (batch_size - 1) * chance
    return ShuffleQuality(
        rank_correlation=float(np.corrcoef(np.arange(len(order)), order)[0, 1]),
        neighbor_ratio=found / expected,
    )
